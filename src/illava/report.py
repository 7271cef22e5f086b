from dataclasses import dataclass


@dataclass
class Report:
    pass


def make_report(*a):
    return Report()
