"""Commands beside runs and reports: experiments, genotypes in files, the demo. What they need is imported late."""
