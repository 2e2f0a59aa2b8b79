"""The `kinoray` command: talks HTTP like any client; starts the service on this machine; prefetches weights."""
