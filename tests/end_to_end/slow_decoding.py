"""`tritserve`, but that every body takes a minute to decode, in a thread that cannot be stopped."""

import time

from service.cli import main
from service.forms import EmbedForm
from service.oip.grpc_form import GrpcForm
from service.oip.rest import InferForm


def decode(*_):
    print("decoding", flush=True)
    time.sleep(60)


EmbedForm.decode = InferForm.decode = GrpcForm.decode = decode
# Workers import this file again.
if __name__ == "__main__":
    main()
