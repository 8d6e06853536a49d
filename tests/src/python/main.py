COMMANDS = {f.__name__: f for f in (
    ask, ask_by_device, resolve, timed_connect, connect_only, upload, download, trade, client_ends_first, server_ends_first, server_resets, client_resets,
    addresses, hold, storm, load, creep, half_closed, push, pull, write_and_close, udp, banner, stream, odd, sleep)}

try:
    COMMANDS[sys.argv[1]](*sys.argv[2:])
except OSError as error:
    say(error=name_of(error), text=str(error))
