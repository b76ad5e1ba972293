//! `dbgproxy ide`: a configuration for an editor, ready to be put into its file.
//!
//! The texts are the files in `ide/`, which attach to the default address; README.md shows the same. It asks no daemon.

use std::net::SocketAddr;

use anyhow::anyhow;

use super::http::Daemon;
use super::{Failure, put, talk};
use crate::config::{Address, DEFAULT_ADDRESS};

/// The arguments of `ide`.
#[derive(Debug, clap::Args)]
pub struct Ide {
    /// For which editor
    #[arg(value_name = "EDITOR")]
    pub editor: Editor,

    /// Where the editor is to attach.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// The editors that there is a text for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Editor {
    /// Visual Studio Code and its kin, with the Python Debugger extension
    Vscode,
    /// With nvim-dap
    Neovim,
    /// With dape
    Emacs,
    /// Helix
    Helix,
    /// Zed
    Zed,
    /// PyCharm and other JetBrains IDEs, with the plugin LSP4IJ
    Pycharm,
    /// With vimspector
    Vim,
}

impl Ide {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Address::Tcp(address) = self.daemon.address else {
            return Err(Failure::Usage(anyhow!(
                "{} is a unix socket, and editors connect by TCP: let the daemon listen on a TCP address too \
                 (--listen, repeatable), and name it here with --connect",
                self.daemon.address
            )));
        };
        if address.port() == 0 {
            return Err(Failure::Usage(anyhow!(
                "an editor needs the port that the daemon chose; `dbgproxy serve` prints it"
            )));
        }
        put(self.editor.text(address))?;
        talk(format_args!("dbgproxy: {}", self.editor.place()));
        Ok(())
    }
}

impl Editor {
    /// Where the text belongs.
    fn place(self) -> &'static str {
        match self {
            Editor::Vscode => "this is .vscode/launch.json of the project; attach with F5",
            Editor::Neovim => {
                "this belongs into init.lua, after nvim-dap is loaded; attach with :DapContinue"
            }
            Editor::Emacs => {
                "this belongs into init.el, after dape is loaded; attach with M-x dape"
            }
            Editor::Helix => {
                "this belongs into ~/.config/helix/languages.toml or .helix/languages.toml of the project"
            }
            Editor::Zed => "this is .zed/debug.json of the project; attach with F4",
            Editor::Pycharm => {
                "add a run configuration of the type Debug Adapter Protocol with the server \"Python - Debugpy\", \
                 and put this into its tab Configuration, for the debug mode Attach"
            }
            Editor::Vim => "this is .vimspector.json of the project; attach with F5",
        }
    }

    /// The text for the default address.
    fn template(self) -> &'static str {
        match self {
            Editor::Vscode => include_str!("ide/vscode.json"),
            Editor::Neovim => include_str!("ide/neovim.lua"),
            Editor::Emacs => include_str!("ide/emacs.el"),
            Editor::Helix => include_str!("ide/helix.toml"),
            Editor::Zed => include_str!("ide/zed.json"),
            Editor::Pycharm => include_str!("ide/pycharm.json"),
            Editor::Vim => include_str!("ide/vim.json"),
        }
    }

    fn text(self, address: SocketAddr) -> String {
        // A whole address first: an IPv6 host has brackets only in front of a port.
        self.template()
            .replace(DEFAULT_ADDRESS, &address.to_string())
            .replace("127.0.0.1", &address.ip().to_string())
            .replace("port = 5678", &format!("port = {}", address.port()))
            .replace("port 5678", &format!("port {}", address.port()))
            .replace("\"port\": 5678", &format!("\"port\": {}", address.port()))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::Value;

    use super::*;

    const README: &str = include_str!("../../README.md");

    #[test]
    fn the_readme_shows_the_same() {
        for editor in [Editor::Vscode, Editor::Neovim, Editor::Emacs, Editor::Vim] {
            let text = format!("\n{}```\n", editor.template());
            assert!(README.contains(&text), "{editor:?}");
        }
    }

    #[test]
    fn each_names_the_address() {
        for editor in Editor::value_variants() {
            let default = DEFAULT_ADDRESS.parse().unwrap();
            assert_eq!(editor.text(default), editor.template(), "{editor:?}");
            for address in ["127.0.0.2:40123", "[::1]:7"] {
                let address: SocketAddr = address.parse().unwrap();
                let text = editor.text(address);
                assert!(text.contains(&address.ip().to_string()), "{text}");
                assert!(text.contains(&address.port().to_string()), "{text}");
                assert!(
                    !text.contains("127.0.0.1") && !text.contains("5678"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn the_files_are_of_their_format() {
        let address = "[::1]:7".parse().unwrap();
        let json = |editor: Editor| serde_json::from_str::<Value>(&editor.text(address)).unwrap();
        for connect in [
            &json(Editor::Vscode)["configurations"][0]["connect"],
            &json(Editor::Zed)[0]["connect"],
            &json(Editor::Pycharm)["connect"],
            &json(Editor::Vim)["adapters"]["dbgproxy"],
        ] {
            assert_eq!(*connect, serde_json::json!({ "host": "::1", "port": 7 }));
        }
        let helix: toml::Table = toml::from_str(&Editor::Helix.text(address)).unwrap();
        assert_eq!(
            helix["language"][0]["debugger"]["transport"].as_str(),
            Some("tcp")
        );
        assert!(
            Editor::Helix
                .text(address)
                .contains(":debug-remote [::1]:7 dbgproxy")
        );
    }
}
