"""A collection of what goes wrong when people train networks, and of what looks odd and is right.

    from symptoms import SYMPTOMS, HEALTHY

Each symptom makes the fault itself, through what users of minires have at hand, and names the cause that an expert
would name. `campaigns/diagnosis.py` asks `minires.diagnose` for each.
"""

from symptoms import data, files, gradient, healthy, network, normalisation, optimisation
from symptoms.common import AREAS, CAUSES, Symptom

SYMPTOMS: list[Symptom] = [
    symptom for module in (data, network, gradient, normalisation, optimisation, files) for symptom in module.symptoms
]
HEALTHY: list[Symptom] = list(healthy.symptoms)

__all__ = ["AREAS", "CAUSES", "HEALTHY", "SYMPTOMS", "Symptom"]
