"""nanochat: from raw text to a model that chats. The library: it trains, evaluates and talks, and runs alone on a bare
machine with torch. It knows no orchestrator, no object store and no tracker (that is `flows/`); importing it does no
work.
"""
