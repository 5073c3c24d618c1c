import numpy as np
import pytest
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from primia.data.phantom import PHANTOM_CLASSES, generate_phantoms

TRAINED = 200  # of the patients; the others are asked about


@pytest.fixture(scope="module")
def chests():
    return list(generate_phantoms(patients=300, pixels=64, hospitals=("north", "river", "hill"), seed=1))


def correlation_of_a_linear_model(features, chests, *, regularisation):
    labels = np.array([PHANTOM_CLASSES.index(chest.label) for chest in chests])
    known = np.array([int(chest.patient_id.split("-")[1]) < TRAINED for chest in chests])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation, max_iter=2000))
    model.fit(features[known], labels[known])
    return matthews_corrcoef(labels[~known], model.predict(features[~known]))


def test_brightness_and_contrast_of_the_whole_image_do_not_give_the_class_away(chests):
    features = np.array([(chest.pixels.mean(), chest.pixels.std()) for chest in chests])
    assert correlation_of_a_linear_model(features, chests, regularisation=1.0) < 0.25


def test_gradients_tell_the_classes_apart_but_not_perfectly(chests):
    features = np.stack(
        [hog(chest.pixels, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for chest in chests]
    )
    assert 0.4 < correlation_of_a_linear_model(features, chests, regularisation=1e-3) < 0.95
