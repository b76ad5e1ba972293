//! What a program itself can do: `import dbgproxy`, with a daemon and without, and with one that dies.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Client, Daemon, Ended, Program, Python, Script};
use tokio::process::Command;

/// Where no daemon is.
const NOBODY: &str = "127.0.0.1:1";

/// What each script begins with.
const PRELUDE: &str = "\
import asyncio, json, os, sys, threading, time
import dbgproxy
debugger = dbgproxy.get_remote_debugger()
def own():
    return {one['name']: one for one in debugger.get_session_info()['debugSessions']}
def until(is_so):
    while not is_so():
        time.sleep(0.005)
def line():
    return sys.stdin.readline().strip()
";

fn script(rest: &str) -> Script {
    Script::new("program.py", &format!("{PRELUDE}{rest}"))
}

/// Runs a script to its end, which must be a quiet one, and gives what it has printed.
async fn run(mut command: Command, script: &Script) -> String {
    command.arg(script.path());
    quiet(Program::start(command).wait().await)
}

fn quiet(ended: Ended) -> String {
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{}", ended.stdout);
    ended.stdout
}

/// The same with every prepared interpreter, one after the other.
async fn everywhere(rest: &str) {
    let script = script(rest);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        run(python.attached(&daemon).await, &script).await;
        let log = daemon.log();
        assert!(!log.contains(" ERROR "), "{log}");
    }
}

async fn session(daemon: &Daemon, pid: i64) -> Value {
    let arguments = json!({ "selector": format!("pid={pid}"), "all": true });
    let (_, mut body) = daemon.verb("session", arguments.clone()).await;
    if body["session"].is_null() {
        (_, body) = daemon
            .verb("session", json!({ "selector": format!("pid={pid}") }))
            .await;
    }
    body["session"].take()
}

/// Every CPython that the agent knows, as far as this machine has them: the prepared ones, and pyenv's.
fn interpreters() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Python::all()
        .iter()
        .map(|python| python.executable.clone())
        .collect();
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let versions = root.or(home).map(|root| root.join("versions"));
    for entry in versions
        .and_then(|it| it.read_dir().ok())
        .into_iter()
        .flatten()
    {
        let directory = entry.expect("a readable directory").path();
        let name = directory.file_name().and_then(|name| name.to_str());
        let minor = name.and_then(|name| name.strip_prefix("3.")?.split('.').next()?.parse().ok());
        let executable = directory.join("bin/python");
        if minor.is_some_and(|minor: u32| (8..=14).contains(&minor)) && executable.exists() {
            all.push(executable);
        }
    }
    all
}

// Without a daemon.

const ALONE: &str = "\
begun = time.monotonic()
assert dbgproxy.info()['connected'] is False and dbgproxy.info()['active'] is False
assert dbgproxy.info()['pid'] == os.getpid() and dbgproxy.info()['version'] == dbgproxy.__version__
assert dbgproxy.wait_for_ide() is False
assert dbgproxy.wait_for_ide(timeout=60) is False
assert dbgproxy.breakpoint() is None
assert debugger is dbgproxy.get_remote_debugger()
assert debugger.list_sessions() == []
assert debugger.get_session_info() is None and debugger.get_session_info('3fa8') is None
assert debugger.set_breakpoint(__file__, 3, condition='x', hit_count=2) is None
assert debugger.set_breakpoint(None, 'x') is None
assert debugger.remove_breakpoint(1) is False and debugger.remove_breakpoint(None) is False
with dbgproxy.debug_session('a', metadata={'n': 1}, breakpoints=['f.py:3', ('f.py', 4), ('f.py', 5, 'x'), 'x', 7, ()]) as a:
    assert (a.name, a.status, a.metadata) == ('a', 'running', {'n': 1}), a
    assert len(a.session_id) == 36
assert a.status == 'completed'
with dbgproxy.debug_session(None, session_id=5, metadata=6, breakpoints=7):
    pass
with dbgproxy.monitor_session(5, 'job', 7) as job:
    assert (job.session_id, job.session_type, job.owner, job.status) == ('5', 'job', '7', 'running')
lock = threading.Lock()
with dbgproxy.monitor_lock('a', lock), dbgproxy.MonitoredLock(name='b') as b:
    assert lock.locked() and b is True
assert not lock.locked()
async def operation(value):
    await asyncio.sleep(0)
    return value
assert asyncio.run(dbgproxy.debug_async_operation(operation(7))) == 7
for how, status in [
    (ValueError('x'), 'failed'), (KeyboardInterrupt(), 'cancelled'), (asyncio.CancelledError(), 'cancelled'),
    (SystemExit(), 'completed'), (SystemExit(3), 'failed'), (GeneratorExit(), 'cancelled'),
]:
    try:
        with dbgproxy.debug_session('b') as b:
            raise how
    except BaseException as error:
        assert error is how and error.__cause__ is None and error.__context__ is None
        assert error.__traceback__.tb_next is None
    assert b.status == status, (how, b)
    async def main():
        async with dbgproxy.debug_session('c') as c:
            try:
                raise how
            finally:
                seen.append(c)
    seen = []
    try:
        main().send(None)
    except BaseException as error:
        assert error is how, error
    assert seen[0].status == status
assert set(dbgproxy.__all__) < set(dir(dbgproxy))
try:
    dbgproxy.nothing
except AttributeError as error:
    assert 'nothing' in str(error)
else:
    assert False
from dbgproxy import *
print('well')
";

#[tokio::test]
async fn without_a_daemon_everything_does_nothing() {
    let daemon = Daemon::start().await;
    let attached = Python::newest().attached(&daemon).await;
    let path = attached.as_std().get_envs();
    let mut path = path.filter(|(name, _)| *name == "PYTHONPATH");
    let path = path
        .next()
        .and_then(|(_, value)| value)
        .expect("it is set")
        .to_owned();
    daemon.kill().await;
    let script = script(ALONE);
    let cheap = Script::new(
        "cheap.py",
        "import sys\nbefore = set(sys.modules)\nimport dbgproxy\nassert set(sys.modules) - before == {'dbgproxy'}\n\
         dbgproxy.info()\nassert not {'typing', 'asyncio', 'threading', 'socket', 'json', 'debugpy', 'uuid', 'inspect'}\
          & (set(sys.modules) - before), sys.modules",
    );
    for executable in interpreters() {
        eprintln!("{}", executable.display());
        let command = |address: Option<&str>| {
            let mut command = Command::new(&executable);
            support::python::clean(&mut command);
            command.env("PYTHONPATH", &path);
            address.map(|address| command.env("DBGPROXY", address));
            command
        };
        for address in [None, Some(NOBODY), Some("nonsense"), Some("unix:/nowhere")] {
            assert_eq!(run(command(address), &script).await, "well\n");
        }
        run(command(None), &cheap).await;
    }
}

// With one.

#[tokio::test]
async fn a_process_sees_itself_and_others() {
    everywhere(
        "\
info = dbgproxy.info()
assert info['connected'] and not info['active'] and not info['ide'], info
assert info['address'] == os.environ['DBGPROXY'] and info['session_id'] == debugger.session_id
me = debugger.get_session_info()
assert me['pid'] == os.getpid() and me['id'] == debugger.session_id and me['state'] == 'dormant', me
assert [one['id'] for one in debugger.list_sessions()] == [me['id']]
assert debugger.get_session_info(me['id'])['pid'] == me['pid']
assert debugger.get_session_info('not one') is None
assert debugger.remove_breakpoint(77) is False
assert dbgproxy.connect() and dbgproxy.connect(info['address']) and not dbgproxy.connect('127.0.0.1:9')
assert dbgproxy.wait_for_ide(0) is False and dbgproxy.wait_for_ide('x') is False
assert dbgproxy.wait_for_ide(0.01) is False
dbgproxy.breakpoint()
",
    )
    .await;
}

#[tokio::test]
async fn the_daemon_lists_what_a_program_is_doing() {
    everywhere(
        "\
class Odd:
    def __str__(self): raise ValueError
class Own(Exception):
    def __str__(self): raise ValueError
loop = []
loop.append(loop)
odd = {'number': 1.5, 'nan': float('nan'), 'huge': 1 << 99, 'text': '\\ud800', 3: b'x', 'odd': Odd(), 'loop': loop, 'set': {1}}
with dbgproxy.debug_session('first', session_id='3fa85f64-5717-4562-b3fc-2c963f66afa6', metadata=odd) as first:
    known = own()['first']
    assert known['id'] == first.session_id == '3fa85f64-5717-4562-b3fc-2c963f66afa6'
    assert known['status'] == 'running' and known['ended'] is None and known['error'] is None
    assert known['metadata']['number'] == 1.5 and known['metadata']['nan'] is None and known['metadata']['set'] == [1]
    first.metadata = {'done': True}
known = own()['first']
assert known['status'] == 'completed' and known['ended'] and known['metadata'] == {'done': True}, known

for name, how, status, error in [
    ('value', ValueError('no \\ud800'), 'failed', {'type': 'ValueError', 'message': 'no \\ufffd\\ufffd\\ufffd'}),
    ('own', Own(), 'failed', {'type': '__main__.Own', 'message': ''}),
    ('long', OSError('x' * 9999), 'failed', None),
    ('exit', SystemExit(2), 'failed', {'type': 'SystemExit', 'message': '2'}),
    ('stop', KeyboardInterrupt(), 'cancelled', None),
    ('cancel', asyncio.CancelledError(), 'cancelled', None),
]:
    try:
        with dbgproxy.debug_session(name):
            raise how
    except BaseException as caught:
        assert caught is how
    known = own()[name]
    assert known['status'] == status, known
    assert known['error'] == error or name == 'long' and len(known['error']['message']) == 1000, known

with dbgproxy.debug_session('large', metadata={'x': ['y' * 999] * 99}):
    assert 'left out' in own()['large']['metadata']['dbgproxy']
job = dbgproxy.monitor_session('job 7', 'job', owner='ann', metadata={'n': 1})
known = own()['job 7']
assert (known['id'], known['status'], known['type'], known['owner']) == ('job 7', 'created', 'job', 'ann'), known
assert known['ended'] is None and known['metadata'] == {'n': 1} and known['created'], known
with job as entered:
    assert entered is job and own()['job 7']['status'] == 'running'
assert own()['job 7']['status'] == 'completed' and own()['job 7']['type'] == 'job'
async def serve():
    async with dbgproxy.monitor_session('request', 'request') as request:
        assert own()['request']['status'] == request.status == 'running' and own()['request']['owner'] is None
        raise LookupError('none')
try:
    asyncio.run(serve())
except LookupError: pass
assert own()['request']['error'] == {'type': 'LookupError', 'message': 'none'}
for number in range(150):
    with dbgproxy.debug_session(str(number)):
        pass
assert list(own()) == [str(number) for number in range(50, 150)]
",
    )
    .await;
}

#[tokio::test]
async fn threads_and_tasks_do_as_they_like() {
    everywhere(
        "\
wrong = []
def work(name):
    try:
        for turn in range(5):
            with dbgproxy.debug_session('%s %d' % (name, turn)) as session:
                assert own()[session.name]['status'] == 'running'
                assert len(debugger.list_sessions()) == 1
            assert own()[session.name]['status'] == 'completed'
    except BaseException as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=work, args=('thread %d' % n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not wrong, wrong

async def operation(n):
    await asyncio.sleep(0.001 * (n % 3))
    if n == 7: raise ValueError(n)
    if n == 8: await asyncio.sleep(3600)
    return n
async def main():
    tasks = [asyncio.ensure_future(dbgproxy.debug_async_operation(operation(n), name='task %d' % n)) for n in range(30)]
    while not tasks[29].done():
        await asyncio.sleep(0.001)
    tasks[8].cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)
results = asyncio.run(main())
assert [n for n in range(30) if results[n] != n] == [7, 8], results
statuses = [own()['task %d' % n]['status'] for n in range(30)]
assert statuses[7:9] == ['failed', 'cancelled'] and set(statuses[9:]) == {'completed'}, statuses

async def named():
    return await dbgproxy.debug_async_operation(operation(1))
assert asyncio.run(named()) == 1 and own()['operation']['status'] == 'completed'
",
    )
    .await;
}

#[tokio::test]
async fn a_block_belongs_to_the_process_that_began_it() {
    everywhere(
        "\
parent = debugger.session_id
try:
    with dbgproxy.debug_session('outer') as outer:
        child = os.fork()
        if not child:
            assert debugger.session_id != parent
            until(lambda: dbgproxy.info()['connected'])
            assert own() == {}, own()
            with dbgproxy.debug_session('inner'):
                assert list(own()) == ['inner']
            raise LookupError
        assert os.waitpid(child, 0)[1] == 0
        assert list(own()) == ['outer'] and own()['outer']['status'] == 'running'
except LookupError:
    assert not child and outer.status == 'failed' and list(own()) == ['inner']
    os._exit(0)
assert child and own()['outer']['status'] == 'completed', own()
",
    )
    .await;
}

#[tokio::test]
async fn a_block_that_its_process_does_not_end_has_failed() {
    let daemon = Daemon::start().await;
    let script = script("dbgproxy.debug_session('cut').__enter__()\nown()\nos._exit(0)\n");
    let mut program = Python::newest().run_attached(&daemon, &script).await;
    quiet(program.wait().await);
    let session = loop {
        let session = daemon
            .sessions(&["--all"])
            .await
            .pop()
            .expect("it was there");
        if session["state"] == "ended" {
            break session;
        }
    };
    let cut = &session["debugSessions"][0];
    assert_eq!(cut["status"], "failed", "{cut}");
    assert_eq!(cut["error"]["message"], "the process ended before it did");
}

#[tokio::test]
async fn a_daemon_that_dies_in_the_middle_is_nothing_to_the_program() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = script(
            "\
waited = []
waiter = threading.Thread(target=lambda: waited.append(dbgproxy.wait_for_ide()), daemon=True)
with dbgproxy.debug_session('long', metadata={'n': 1}) as long:
    with dbgproxy.debug_session('short'):
        until(lambda: debugger.get_session_info()['state'] == 'dormant')
        waiter.start()
        until(lambda: dbgproxy.info()['active'])
        print('begun')
        assert line() == 'died'
        waiter.join()
        assert waited == [False]
        until(lambda: not dbgproxy.info()['connected'])
        assert debugger.list_sessions() == [] and debugger.get_session_info() is None
        assert debugger.set_breakpoint(__file__, 3) is None
        assert dbgproxy.wait_for_ide(60) is False
        dbgproxy.breakpoint()
    assert sys.gettrace() is None
    print('alone')
    assert line() == 'back'
    until(lambda: dbgproxy.info()['connected'])
    # What is under way is known to the new one.
    assert list(own()) == ['long'] and own()['long']['status'] == 'running', own()
    assert own()['long']['metadata'] == {'n': 1}
assert own()['long']['status'] == 'completed'
",
        );
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("begun").await;
        let port = daemon.address.port();
        daemon.kill().await;
        program.tell("died").await;
        program.printed("alone").await;
        let _daemon = Daemon::start_on(port).await;
        program.tell("back").await;
        quiet(program.wait().await);
    }
}

#[tokio::test]
async fn a_program_waits_for_an_ide_and_its_breakpoints() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = script(
            "\
print('waiting')
came = dbgproxy.wait_for_ide()
here = dbgproxy.info()  # BREAK
assert came and here['ide'] and here['active'], here
assert dbgproxy.wait_for_ide(0)
assert line() == 'left'
until(lambda: not dbgproxy.info()['ide'])
assert dbgproxy.wait_for_ide(0) is False
",
        );
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("waiting").await;
        let mut client = Client::start(&daemon)
            .arguments(&program.view())
            .breakpoints(script.path(), &[script.line("# BREAK")])
            .attached()
            .await;
        let stopped = client.stopped_at(script.line("# BREAK")).await;
        let stack = client.stack(stopped.thread).await;
        assert_eq!(client.evaluate("came", &stack[0]).await, "True");
        client.continue_(stopped.thread).await;
        client.disconnect().await;
        program.tell("left").await;
        quiet(program.wait().await);
    }
}

#[tokio::test]
async fn a_program_that_waits_is_activated_and_sleeps_again_when_it_does_not() {
    let daemon = Daemon::start().await;
    let script = script(
        "\
assert not dbgproxy.info()['active']
waiter = threading.Thread(target=dbgproxy.wait_for_ide, args=(3,))
waiter.start()
until(lambda: dbgproxy.info()['active'])
waiter.join()
until(lambda: not dbgproxy.info()['active'])
until(lambda: debugger.get_session_info()['state'] == 'dormant')
",
    );
    quiet(
        Python::newest()
            .run_attached(&daemon, &script)
            .await
            .wait()
            .await,
    );
}

#[tokio::test]
async fn waiting_is_over_at_once_where_there_is_no_debugpy() {
    let daemon = Daemon::start().await;
    let empty = tempfile::tempdir().expect("a temporary directory");
    let mut command = Python::newest().attached(&daemon).await;
    command.env("DBGPROXY_DEBUGPY", empty.path());
    let script = script(
        "\
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'debugpy':
            raise ModuleNotFoundError(name, name='debugpy')
sys.meta_path.insert(0, Hidden())
assert dbgproxy.wait_for_ide() is False
assert dbgproxy.info()['connected'] and not dbgproxy.info()['active']
",
    );
    run(command, &script).await;
}

#[tokio::test]
async fn breakpoint_stops_in_its_callers_frame_if_somebody_is_there() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = script(
            "\
def stop(n):
    dbgproxy.breakpoint()
    return n  # HERE
def run():
    for n in range(1000):
        stop(n)
run()
print('ready')
assert line() == 'stop'
until(lambda: dbgproxy.info()['ide'])
stop(5)
thread = threading.Thread(target=stop, args=(6,))
thread.start()
thread.join()
print('stopped')
assert line() == 'left'
until(lambda: not dbgproxy.info()['ide'])
run()
",
        );
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("ready").await;
        let mut client = Client::start(&daemon)
            .arguments(&program.view())
            .attached()
            .await;
        program.tell("stop").await;
        for n in ["5", "6"] {
            let stopped = client.stopped_at(script.line("# HERE")).await;
            let stack = client.stack(stopped.thread).await;
            assert_eq!(stack[0]["name"], "stop");
            assert_eq!(client.evaluate("n", &stack[0]).await, n);
            client.continue_(stopped.thread).await;
        }
        program.printed("stopped").await;
        client.disconnect().await;
        program.tell("left").await;
        quiet(program.wait().await);
    }
}

#[tokio::test]
async fn a_process_that_was_started_without_connects() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = script(
            "\
address = sys.argv[1]
assert dbgproxy.info()['address'] is None and not dbgproxy.info()['connected']
if sys.argv[2] == 'thread':
    connected = []
    thread = threading.Thread(target=lambda: connected.append(dbgproxy.connect(address)))
    thread.start()
    thread.join()
    assert connected == [True]
elif sys.argv[2] == 'variable':
    os.environ['DBGPROXY'] = address
    assert dbgproxy.connect()
else:
    assert dbgproxy.connect(address)
assert dbgproxy.info()['connected'] and dbgproxy.info()['address'] == address
with dbgproxy.debug_session('block'):
    assert own()['block']['status'] == 'running'
assert dbgproxy.connect() and not dbgproxy.connect('127.0.0.1:9')
child = os.fork()
if not child:
    until(lambda: dbgproxy.info()['connected'])
    os._exit(0 if debugger.get_session_info()['parent'] == debugger.get_session_info(parent)['id'] else 1)
",
        );
        // The child's parent is known before the fork.
        let source = std::fs::read_to_string(script.path()).expect("it was written");
        let source = source.replace(
            "child = os.fork()\n",
            "parent = debugger.session_id\nchild = os.fork()\n",
        ) + "assert os.waitpid(child, 0)[1] == 0\nprint('here')\nline()\n";
        std::fs::write(script.path(), source).expect("the directory can be written to");
        for how in ["thread", "variable", "argument"] {
            let mut command = python.attached(&daemon).await;
            command.env_remove("DBGPROXY").arg(script.path());
            command.args([&daemon.connect(), how]);
            let mut program = Program::start(command);
            program.printed("here").await;
            // It can be debugged as any other.
            let client = Client::start(&daemon)
                .arguments(&program.view())
                .attached()
                .await;
            client.disconnect().await;
            program.tell("").await;
            quiet(program.wait().await);
        }
        let script = Script::new(
            "nobody.py",
            "import dbgproxy, sys\nassert not dbgproxy.connect(sys.argv[1])\nassert not dbgproxy.connect('nonsense')",
        );
        let mut command = Command::new(&python.executable);
        support::python::clean(&mut command);
        let attached = python.attached(&Daemon::start().await).await;
        let path = attached
            .as_std()
            .get_envs()
            .find(|(name, _)| *name == "PYTHONPATH");
        command.env(
            "PYTHONPATH",
            path.and_then(|(_, path)| path).expect("it is set"),
        );
        command.arg(script.path()).arg(NOBODY);
        quiet(Program::start(command).wait().await);
    }
}

// Breakpoints.

#[tokio::test]
async fn a_block_has_breakpoints_while_it_runs() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = script(
            "\
def turn(n):
    return n + 1  # BREAK
def run():
    return [turn(n) for n in range(10)]
async def run_async():
    async with dbgproxy.debug_session('tasks', breakpoints=['%s:%d' % (__file__, LINE)]):
        turn(1000)
    turn(0)
LINE = turn.__code__.co_firstlineno + 1
print('ready')
assert line() == 'go'
until(lambda: dbgproxy.info()['ide'])
run()
with dbgproxy.debug_session('block', breakpoints=[(__file__, LINE, 'n == 7'), (__file__, 99999), 'nowhere.py:3']) as block:
    run()
run()
try:
    with dbgproxy.debug_session('again', breakpoints=[(os.path.relpath(__file__), LINE, 'n == 3')]):
        run()
        raise LookupError
except LookupError:
    run()
asyncio.run(run_async())
id = debugger.set_breakpoint(__file__, LINE, hit_count=5)
assert isinstance(id, int), id
run()
assert debugger.remove_breakpoint(id) and not debugger.remove_breakpoint(id)
run()
",
        );
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("ready").await;
        let mut client = Client::start(&daemon)
            .arguments(&program.view())
            .attached()
            .await;
        program.tell("go").await;
        for n in ["7", "3", "1000", "4"] {
            let stopped = client.stopped_at(script.line("# BREAK")).await;
            let stack = client.stack(stopped.thread).await;
            assert_eq!(client.evaluate("n", &stack[0]).await, n);
            client.continue_(stopped.thread).await;
        }
        quiet(program.wait().await);
        let (_, listed) = daemon.verb("breakpoints.list", json!({})).await;
        assert_eq!(listed["breakpoints"], json!([]));
    }
}

#[tokio::test]
async fn a_process_that_sleeps_is_woken_for_its_own_breakpoint() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = script(
            "\
def turn(n):
    return n + 1  # BREAK
with dbgproxy.debug_session('block', breakpoints=[(__file__, turn.__code__.co_firstlineno + 1)]):
    assert dbgproxy.info()['active']
    turn(1)
turn(2)
until(lambda: not dbgproxy.info()['active'])
assert debugger.set_breakpoint(__file__, 1, hit_count=1000)
other = debugger.set_breakpoint(__file__, 2, hit_count=1000)
child = os.fork()
if not child:
    until(lambda: dbgproxy.info()['connected'])
    os._exit(1 if debugger.remove_breakpoint(other) else 0)
assert os.waitpid(child, 0)[1] == 0
assert debugger.remove_breakpoint(other)
print('stays')
line()
",
        );
        let mut program = python.run_attached(&daemon, &script).await;
        // Nobody is attached: whoever asks first where it stands can let it go on.
        loop {
            let session = session(&daemon, program.pid()).await;
            if session["state"] == "stopped" {
                break;
            }
        }
        let (_, resumed) = daemon.verb("continue", json!({})).await;
        assert_eq!(resumed["rows"][0]["success"], true, "{resumed}");
        program.printed("stays").await;
        let (_, listed) = daemon.verb("breakpoints.list", json!({})).await;
        assert_eq!(
            listed["breakpoints"].as_array().map(Vec::len),
            Some(1),
            "{listed}"
        );
        let only_in = listed["breakpoints"][0]["sessions"].as_str();
        assert!(only_in.is_some_and(|it| it.starts_with("id=")), "{listed}");
        // What it has not removed goes with it.
        program.tell("").await;
        quiet(program.wait().await);
        while !daemon.verb("breakpoints.list", json!({})).await.1["breakpoints"]
            .as_array()
            .is_some_and(Vec::is_empty)
        {}
    }
}

// What a process may ask.

/// A connection that says that it is an agent.
async fn agent(daemon: &Daemon, pid: u32) -> Client {
    let mut agent = Client::connect(daemon).await;
    let hello = json!({ "protocol": 1, "role": "agent", "pid": pid, "how": "start" });
    let answer = agent.request("dbgproxy/hello", hello).await;
    assert_eq!(answer["activate"], false);
    agent
}

#[tokio::test]
async fn a_process_may_ask_for_little() {
    let daemon = Daemon::start().await;
    let mut agent = agent(&daemon, 4_000_000).await;
    for command in [
        "dbgproxy/shutdown",
        "dbgproxy/evaluate",
        "dbgproxy/terminate",
        "dbgproxy/pause",
        "dbgproxy/hello",
        "dbgproxy/subscribe",
        "initialize",
        "attach",
        "evaluate",
    ] {
        let why = agent.refused(command, json!({})).await;
        assert!(why.contains("little else"), "{command}: {why}");
    }
    let elsewhere = json!({ "file": "/x.py", "line": 3, "sessions": "all" });
    let why = agent.refused("dbgproxy/breakpoints.add", elsewhere).await;
    assert!(why.contains("in itself"), "{why}");
    let why = agent
        .refused("dbgproxy/breakpoints.remove", json!({ "id": 1 }))
        .await;
    assert!(why.contains("has set no breakpoint 1"), "{why}");
    agent
        .refused("dbgproxy/breakpoints.remove", json!({ "all": true }))
        .await;
    agent
        .refused("dbgproxy/session", json!({ "slector": "all" }))
        .await;
    agent
        .refused("dbgproxy/waitForIde", json!({ "timeout": "x" }))
        .await;
    let sessions = agent.request("dbgproxy/sessions", json!({})).await;
    assert_eq!(sessions["sessions"][0]["pid"], 4_000_000);

    // There is a limit to what is under way.
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let seq = agent
            .send("dbgproxy/waitForIde", json!({ "timeout": 1e300 }))
            .await;
        waiting.push(seq);
    }
    for seq in &waiting[32..] {
        let answer = agent.response(*seq).await;
        assert_eq!(answer["success"], false, "{answer}");
    }
    // It ends with the connection, and the daemon with nothing left to wait for.
    agent.kill();
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_process_says_of_itself_is_bounded() {
    let daemon = Daemon::start().await;
    let mut agent = agent(&daemon, 4_000_001).await;
    for body in [
        json!({}),
        json!({ "id": 1, "name": "n", "status": "running" }),
        json!({ "id": "a", "name": "n", "status": "odd" }),
        json!([]),
    ] {
        let event =
            json!({ "seq": 7, "type": "event", "event": "dbgproxy/debugSession", "body": body });
        agent.send_text(&event.to_string()).await;
    }
    for number in 0..200 {
        let body = json!({
            "id": format!("{number}"), "name": "n".repeat(20_000), "status": "running",
            "metadata": { "x": "y".repeat(20_000) },
            "error": { "type": "t".repeat(100_000), "message": "m".repeat(20_000) },
        });
        let event =
            json!({ "seq": 7, "type": "event", "event": "dbgproxy/debugSession", "body": body });
        agent.send_text(&event.to_string()).await;
    }
    let session = agent
        .request("dbgproxy/session", json!({ "selector": "all" }))
        .await;
    let all = session["session"]["debugSessions"]
        .as_array()
        .expect("it is a list");
    assert_eq!(all.last().expect("there are some")["id"], "199");
    assert!(all.len() > 10 && all.len() <= 100, "{}", all.len());
    assert!(session.to_string().len() < 100_000);
    assert!(all[0]["metadata"].is_null());
}

// The example, and the types.

#[tokio::test]
async fn the_example_runs() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/api.py");
    let known = "the daemon knows of fetching that it has completed\n\
                 the daemon knows of fetch 0 that it has completed\n\
                 the daemon knows of fetch 1 that it has completed\n\
                 the daemon knows of fetch 2 that it has completed\n\
                 the daemon knows of dividing that it has failed\n";
    let does = "fetched [0, 1, 4]\nfetching has completed\nan exception passes through: division by zero\n";
    for python in Python::all() {
        eprintln!("{python}");
        let mut command = python.command();
        command.arg(&example);
        let printed = quiet(Program::start(command).wait().await);
        assert_eq!(printed, "dbgproxy is not here\n");

        let daemon = Daemon::start().await;
        let mut command = python.attached(&daemon).await;
        command.arg(&example);
        let printed = quiet(Program::start(command).wait().await);
        assert_eq!(printed, format!("{does}{known}"));

        let mut command = python.attached(&daemon).await;
        command.args([example.as_os_str(), "--wait".as_ref()]);
        let mut program = Program::start(command);
        let mut client = Client::start(&daemon)
            .arguments(&json!({ "view": "process" }))
            .attached()
            .await;
        let stopped = client.stopped().await;
        let stack = client.stack(stopped.thread).await;
        assert_eq!(stack[0]["name"], "main");
        client.continue_(stopped.thread).await;
        let printed = quiet(program.wait().await);
        assert_eq!(printed, format!("an IDE is here\n{does}{known}"));
        daemon.kill().await;
    }
}
