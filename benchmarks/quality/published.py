"""The sets, and accuracies that others published on the archive's own splits."""

# TS2Vec: Yue et al., "TS2Vec: Towards Universal Representation of Time Series", AAAI 2022,
# arXiv 2106.10466, the table of the 30 UEA sets in its appendix: representations of 320 numbers
# learnt without labels, then the RBF SVM of `model/evaluation/probe.py`.
TS2VEC = {
    "JapaneseVowels": 0.984,
    "BasicMotions": 0.975,
    "NATOPS": 0.928,
    "ArticularyWordRecognition": 0.987,
    "PenDigits": 0.989,
    "UWaveGestureLibrary": 0.906,
    "Libras": 0.867,
}
SETS = list(TS2VEC)
SHORT = {
    "JapaneseVowels": "Vowels",
    "BasicMotions": "Motions",
    "ArticularyWordRecognition": "Words",
    "UWaveGestureLibrary": "UWave",
}
