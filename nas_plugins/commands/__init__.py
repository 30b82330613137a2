"""Commands other than searches and reports: derived networks, experiments, genotype files and the demo.

Their dependencies are imported late.
"""
