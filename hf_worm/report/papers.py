"""The papers of the methods, as a model card cites them."""

from typing import NamedTuple

from hf_worm.report.method import Method


class Paper(NamedTuple):
    """A paper: its number on arXiv and its BibTeX entry."""

    arxiv: str
    bibtex: str

    @property
    def link(self) -> str:
        """Link to the paper in Markdown."""
        return f"[arXiv:{self.arxiv}](https://arxiv.org/abs/{self.arxiv})"


WORM = Paper(
    "2406.11872",
    """\
@inproceedings{vasudev2024worm,
  title     = {The EarlyBird Gets the WORM: Heuristically Accelerating EarlyBird Convergence},
  author    = {Vasudev, Adithya},
  booktitle = {Proceedings of the 4th NeurIPS Efficient Natural Language and Speech Processing Workshop},
  series    = {Proceedings of Machine Learning Research},
  volume    = {262},
  pages     = {232--240},
  year      = {2024}
}""",
)
EB_TRAIN = Paper(
    "1909.11957",
    """\
@inproceedings{you2020earlybird,
  title     = {Drawing Early-Bird Tickets: Toward More Efficient Training of Deep Networks},
  author    = {You, Haoran and Li, Chaojian and Xu, Pengfei and Fu, Yonggan and Wang, Yue and Chen, Xiaohan and
               Baraniuk, Richard G. and Wang, Zhangyang and Lin, Yingyan},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}""",
)
GRADUAL = Paper(
    "1710.01878",
    """\
@article{zhu2017prune,
  title     = {To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression},
  author    = {Zhu, Michael and Gupta, Suyog},
  journal   = {arXiv preprint arXiv:1710.01878},
  year      = {2017}
}""",
)
OF_WORM = ("gradient", "update", "fade")  # treatments


def paper_of(method: Method) -> Paper | None:
    """Find the paper that a method is from; `None` where it is from none that is known here."""
    if not method.searched:
        return None
    if method.schedule == "cubic":
        return GRADUAL
    if not method.early_bird:
        return None
    return WORM if method.treatment in OF_WORM else EB_TRAIN
