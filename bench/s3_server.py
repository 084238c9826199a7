"""An S3 service of moto's in a process of its own, so that its memory is not the client's. Run by `bench.s3`."""

import logging
import sys

from moto.server import ThreadedMotoServer


def main() -> None:
    """Print the address, and serve until standard input is closed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
