"""Who answers for a schedule: signatures, bounds, overrides, the stages of a roll-out, and private commitments.

A schedule says by itself that it is whole (its chain) and lawful (its invariants). This package says who
stands behind it: k of n registered keys, within bounds that the key holders set and the proposer cannot move.
"""
