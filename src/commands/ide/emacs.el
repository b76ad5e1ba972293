(add-to-list 'dape-configs
  '(dbgproxy modes (python-mode python-ts-mode) host "127.0.0.1" port 5678 :type "python" :request "attach"))
