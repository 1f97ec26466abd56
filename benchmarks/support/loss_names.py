"""Names of losses that several scripts use; without torch, for those that only read results."""

GENDD = "GenDD"
CIFAR10_LOSSES = (
    "KD",
    "9 LSKD + 0.1 KD",
    "DKD",
    "DIST",
    "30000 PKT + KD",
    "RKD + KD",
    "100 FitNet + KD",
    "1000 AT + KD",
    "mSARC + KD",
    GENDD,
)
