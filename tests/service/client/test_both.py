"""The two clients are one, but for their waits."""

import inspect

from tritserve import AsyncClient, Client


def shown(kind):
    """What an editor shows of a class: each public name with its parameters and what it does."""
    return {
        name: (inspect.signature(member), inspect.getdoc(member))
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_offer_the_same_and_tell_what_it_does():
    blocking, awaited = shown(Client), shown(AsyncClient)
    assert set(blocking) == {"__init__", "embed", "embed_detailed", "info", "close"}
    for name, (signature, does) in blocking.items():
        assert signature.parameters == awaited[name][0].parameters
        assert does
        assert awaited[name][1]
        assert all(parameter in does for parameter in told_once(name, signature))


def told_once(name, signature):
    """The parameters that the method's own docstring must tell of."""
    return set() if name == "embed_detailed" else set(signature.parameters) - {"self"}
