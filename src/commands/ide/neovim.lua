local dap = require("dap")
dap.adapters.dbgproxy = { type = "server", host = "127.0.0.1", port = 5678 }
dap.configurations.python = { { type = "dbgproxy", request = "attach", name = "dbgproxy" } }
