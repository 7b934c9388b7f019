"""The chaos suite: real workers, real servers, thousands of runs, and a monkey that breaks things meanwhile.

A *storm* has four parts. The *stage* starts a broker, a result backend and a database of its own, proxies in front of
them, and three workers with two processes each. The *producer*, a process of its own, starts runs of all *shapes* at a
steady rate and writes down beforehand what it means to do (its *plans*). The *monkey* kills, stops, cuts, empties,
doubles and puts clocks forward, chosen by a seed. When it has stopped, all that was started has to end, and the *audit*
compares what the plans ask for with what is there: the tables by plain SQL, the effects outside, Celery's results.

``python -m tests.chaos`` has long storms (``make chaos``), ``test_storm.py`` two short ones.
"""
