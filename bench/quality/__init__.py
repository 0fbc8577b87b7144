"""How good the answers are: evaluation, its report, bit cards, studies."""
