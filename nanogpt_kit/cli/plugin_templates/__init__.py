"""What `nanogpt-kit plugins new` copies: real files, which are checked, tested and documented like all others.

For each kind there is a component, its tests and an experiment; the pages of the kinds show them as their examples. A
new plugin gets other names: a class of the component, and what its name is in experiments. In package/ are the files of
a distribution, with $names for Python's string.Template.
"""
