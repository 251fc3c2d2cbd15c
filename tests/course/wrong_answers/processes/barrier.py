"""Plausible wrong answers to the starred task of `processes`: {mistake: code}."""

BARRIER = {
    "set back as soon as it opens": """
def make_barrier(members, condition):
    expected, arrived, meeting = members, 0, 0

    def meet():
        nonlocal arrived, meeting
        with condition:
            mine = meeting
            arrived += 1
            if arrived == expected:
                arrived, meeting = 0, meeting + 1
                condition.notify_all()
            else:
                condition.wait_for(lambda: arrived == expected)
            return mine

    def leave():
        nonlocal expected
        with condition:
            expected -= 1
            condition.notify_all()

    return meet, leave
""",
    "the last one who goes sets it back": """
def make_barrier(members, condition):
    expected, arrived, gone, meeting = members, 0, 0, 0

    def meet():
        nonlocal arrived, gone, meeting
        with condition:
            mine = meeting
            arrived += 1
            condition.notify_all()
            condition.wait_for(lambda: arrived >= expected)
            gone += 1
            if gone == expected:
                arrived, gone, meeting = 0, 0, meeting + 1
            return mine

    def leave():
        nonlocal expected
        with condition:
            expected -= 1
            condition.notify_all()

    return meet, leave
""",
    "if and not while": """
def make_barrier(members, condition):
    expected, arrived, meeting = members, 0, 0

    def open_when_complete():
        nonlocal arrived, meeting
        if arrived == expected:
            arrived, meeting = 0, meeting + 1
            condition.notify_all()

    def meet():
        nonlocal arrived
        with condition:
            mine = meeting
            arrived += 1
            open_when_complete()
            if meeting == mine:
                condition.wait()
            return mine

    def leave():
        nonlocal expected
        with condition:
            expected -= 1
            open_when_complete()

    return meet, leave
""",
    "wakes only one": """
def make_barrier(members, condition):
    expected, arrived, meeting = members, 0, 0

    def open_when_complete():
        nonlocal arrived, meeting
        if arrived == expected:
            arrived, meeting = 0, meeting + 1
            condition.notify()

    def meet():
        nonlocal arrived
        with condition:
            mine = meeting
            arrived += 1
            open_when_complete()
            condition.wait_for(lambda: meeting > mine)
            return mine

    def leave():
        nonlocal expected
        with condition:
            expected -= 1
            open_when_complete()

    return meet, leave
""",
    "nobody looks when somebody leaves": """
def make_barrier(members, condition):
    expected, arrived, meeting = members, 0, 0

    def meet():
        nonlocal arrived, meeting
        with condition:
            mine = meeting
            arrived += 1
            if arrived == expected:
                arrived, meeting = 0, meeting + 1
                condition.notify_all()
            condition.wait_for(lambda: meeting > mine)
            return mine

    def leave():
        nonlocal expected
        with condition:
            expected -= 1
            condition.notify_all()

    return meet, leave
""",
    "leaving is coming once more": """
def make_barrier(members, condition):
    arrived, meeting = 0, 0

    def arrive():
        nonlocal arrived, meeting
        arrived += 1
        if arrived == members:
            arrived, meeting = 0, meeting + 1
            condition.notify_all()

    def meet():
        with condition:
            mine = meeting
            arrive()
            condition.wait_for(lambda: meeting > mine)
            return mine

    def leave():
        with condition:
            arrive()

    return meet, leave
""",
    "counts all who ever came": """
def make_barrier(members, condition):
    expected, came = members, 0

    def meet():
        nonlocal came
        with condition:
            mine = came // expected
            came += 1
            condition.notify_all()
            condition.wait_for(lambda: came >= (mine + 1) * expected)
            return mine

    def leave():
        nonlocal expected
        with condition:
            expected -= 1
            condition.notify_all()

    return meet, leave
""",
    "a meeting whenever somebody leaves": """
def make_barrier(members, condition):
    expected, arrived, meeting = members, 0, 0

    def meet():
        nonlocal arrived, meeting
        with condition:
            mine = meeting
            arrived += 1
            if arrived == expected:
                arrived, meeting = 0, meeting + 1
                condition.notify_all()
            condition.wait_for(lambda: meeting > mine)
            return mine

    def leave():
        nonlocal arrived, expected, meeting
        with condition:
            expected -= 1
            arrived, meeting = 0, meeting + 1
            condition.notify_all()

    return meet, leave
""",
}
