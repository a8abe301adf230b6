"""The tests of the components: the suite of the kind, and a training of the experiment."""
