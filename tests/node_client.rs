//! The protocol's official client, `@vscode/debugadapter-testsupport`, drives a whole session.

mod support;

use support::python::{clean, node};
use support::{Daemon, Program, Python, Script};
use tokio::process::Command;

const SOURCE: &str = "\
def add(a, b):
    total = a + b
    return total  # BREAK

print(add(20, 22))
";

/// Every wait of the client fails with the connection, and the whole of it with the test's own limit.
const DRIVER: &str = r"
const assert = require('assert');
const { DebugClient } = require('@vscode/debugadapter-testsupport');
const [port, path, line] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];

(async () => {
    const client = new DebugClient('node', '', 'debugpy');
    await client.start(port);
    const { body: capabilities } = await client.initializeRequest({
        clientID: 'testsupport', adapterID: 'debugpy', linesStartAt1: true, columnsStartAt1: true, pathFormat: 'path',
    });
    assert(capabilities.supportsConfigurationDoneRequest);

    const initialized = client.waitForEvent('initialized');
    const attached = client.attachRequest({ name: 'test', type: 'debugpy', request: 'attach' });
    await initialized;
    const { body: { breakpoints } } = await client.setBreakpointsRequest({
        source: { path }, breakpoints: [{ line }],
    });
    // It is verified when a process has verified it, and one may be still to come.
    assert.deepStrictEqual(breakpoints.length, 1);
    await client.setExceptionBreakpointsRequest({ filters: ['uncaught'] });

    let stopped = client.assertStoppedLocation('breakpoint', { path, line });
    await client.configurationDoneRequest();
    await attached;
    const { body: { stackFrames } } = await stopped;
    const { body: { threads } } = await client.threadsRequest();
    // It has no child sessions: all processes are in this one, as threads.
    assert.deepStrictEqual(threads.map(({ name }) => name), ['script.py · MainThread']);
    const [{ id: threadId }] = threads;
    const [{ id: frameId, name }] = stackFrames;
    assert.strictEqual(name, 'add');

    const { body: { scopes } } = await client.scopesRequest({ frameId });
    const { variablesReference } = scopes.find(({ name }) => name === 'Locals');
    const { body: { variables } } = await client.variablesRequest({ variablesReference });
    const values = Object.fromEntries(variables.map(({ name, value }) => [name, value]));
    assert.deepStrictEqual(values, { a: '20', b: '22', total: '42' });
    await client.setVariableRequest({ variablesReference, name: 'total', value: '43' });
    const { body: { result } } = await client.evaluateRequest({ expression: 'total', frameId });
    assert.strictEqual(result, '43');

    stopped = client.waitForEvent('stopped');
    await client.stepOutRequest({ threadId });
    assert.strictEqual((await stopped).body.reason, 'step');

    const exited = new Promise((resolve) => client.on('thread', ({ body }) => {
        if (body.reason === 'exited' && body.threadId === threadId) { resolve(); }
    }));
    await client.continueRequest({ threadId });
    await exited;
    await client.disconnectRequest({});
    console.log('done');
    process.exit(0);
})().catch((error) => {
    console.error(error);
    process.exit(1);
});
";

#[tokio::test]
async fn the_official_client_drives_a_session() {
    let Some(modules) = node() else { return };
    let script = Script::new("script.py", SOURCE).with("driver.js", DRIVER);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let mut program = python.debug(&daemon, &script, &[]);
        let mut command = Command::new("node");
        clean(&mut command);
        command
            .env("NODE_PATH", &modules)
            .arg(script.directory().join("driver.js"))
            .arg(daemon.address.port().to_string())
            .arg(script.path())
            .arg(script.line("# BREAK").to_string());
        let mut driver = Program::start(command);
        let ended = driver.wait().await;
        assert_eq!((ended.code, &*ended.stdout), (0, "done\n"), "{ended:?}");
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stdout), (0, "43\n"), "{ended:?}");
        daemon.stop().await;
    }
}
