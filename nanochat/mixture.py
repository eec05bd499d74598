"""placeholder, being written"""
def parse_mixture(text, where="mixture"): return {}
