"""How fast minires is, beside its peers and beside what the machine allows: `minires bench`; installed as
`minires.benchmarks`."""
