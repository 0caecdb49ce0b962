"""Environment variables that the engine reads by itself."""

ISA_VARIABLE = "TRITSERVE_ISA"
