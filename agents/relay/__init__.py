"""The relay: node agents dial it as they would a controller, and one stream carries what they say upward.

door    serves the agents' protocol          fold    beats and steps of all nodes, as columns
slots   the nodes of one upward session      link    the upward session
"""
