"""Will it run here? What this machine has, what a model needs, and what to do where the two do not meet.

`architecture`, `fit`, `family` and `diagnosis` decide and touch nothing; `inspection` and `checkpoint`
read this machine.
"""
