"""Commands beside searches and reports: derived networks, experiments, genotypes in files, the demo.

What they need is imported late.
"""
