"""placeholder"""


class InterruptibleProcessGroup:
    """x"""
