"""`tritserve`, but that every body takes a minute to decode, in a thread that cannot be stopped."""

import time

from tritserve.service.commands.cli import main
from tritserve.service.forms.embed import EmbedForm
from tritserve.service.oip.grpc.form import GrpcForm
from tritserve.service.oip.rest.form import InferForm


def decode(*_):
    print('{"event": "decoding"}', flush=True)
    time.sleep(60)


EmbedForm.decode = InferForm.decode = GrpcForm.decode = decode
# Workers import this file again.
if __name__ == "__main__":
    main()
