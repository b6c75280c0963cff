"""randlabels: what does a model do when its labels are wrong?

A sweep framework for the experiments of Zhang et al. 2017, "Understanding deep learning
requires rethinking generalization". One run lives in `randlabels.run`; many runs become
tables in the package `analysis`.
"""

__version__ = "0.1.0"
