from minires.guides import text

__doc__ = text("port_weights")
