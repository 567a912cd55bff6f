from minires.guides import text

__doc__ = text("own_data")
