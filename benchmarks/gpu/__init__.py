"""What a lent GPU is used for, decided beforehand: one script, a bundle, and a plan of stages in time boxes.

``make gpu-bundle`` makes the bundle and prints the commands to give; ``run.sh`` is what they run; ``__main__.py`` runs
a plan; each stage is a module of its own, started as a process of its own.
"""
