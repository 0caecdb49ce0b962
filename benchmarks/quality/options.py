"""What options of the commands may hold."""

from typing import Any

import click


class Numbers(click.ParamType):
    """`0,1,2` as a list."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        parts = value.split(",")
        if not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"{value!r} are no whole numbers separated by commas", param, ctx)
        return [int(part) for part in parts]


class Names(click.ParamType):
    """`a,b` as a list; each is one of those that there are."""

    name = "names"

    def __init__(self, what: str, there: list[str]) -> None:
        self._what, self._there = what, there

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        names: list[str] = value.split(",")
        for name in names:
            if name not in self._there:
                there = ", ".join(self._there)
                self.fail(f"there is no {self._what} {name!r}; there are {there}", param, ctx)
        return names
