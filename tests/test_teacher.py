"""Teachers: the outputs of an ONNX file, which files are refused, and outputs that are kept."""

import numpy as np
import pytest

from cait_viz.errors import TeacherError
from cait_viz.training.teacher import Teacher, TeacherCache


@pytest.fixture
def teacher(teacher_file):
    return Teacher(teacher_file, 32)


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_it_gets_rgb_from_0_to_1_and_gives_logits_and_features_with_channels_last(teacher):
    shown = np.zeros((1, 32, 32, 3), np.uint8)
    shown[0, :16, 16:] = (255, 0, 51)  # the patch in the first row and second column
    output = teacher(shown)
    assert output.features.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(output.features[0, 0, 1], [1, 0, 0.2], atol=1e-3)
    np.testing.assert_allclose(output.features[0, 1, 0], [0, 0, 0], atol=1e-6)
    # The tiny teacher's logits are ten times the means of red, green and blue.
    np.testing.assert_allclose(output.logits[0], [2.5, 0, 0.5], atol=1e-2)
    assert (teacher.classes, teacher.grid) == (3, (2, 2, 3))


def test_each_of_many_images_gets_its_own_outputs(teacher):
    shown = noise(70)
    together, alone = teacher(shown), [teacher(shown[index : index + 1]) for index in range(70)]
    np.testing.assert_allclose(together.logits, np.concatenate([one.logits for one in alone]), atol=2e-2)


def test_a_file_with_a_fixed_size_is_used_at_that_unless_another_is_asked_for(make_teacher, teacher):
    path = make_teacher(size=48)
    assert Teacher(path).size == 48
    np.testing.assert_array_equal(Teacher(path, 32)(noise(3)).logits, teacher(noise(3)).logits)


def test_a_size_that_the_network_cannot_take_is_refused(teacher_file):
    with pytest.raises(TeacherError, match=r"fails at 8 pixels"):
        Teacher(teacher_file, 8)


def test_a_file_for_one_image_at_a_time_gets_one_at_a_time(make_teacher, teacher):
    alone = Teacher(make_teacher(batch=1), 32)
    np.testing.assert_array_equal(alone(noise(5)).logits, teacher(noise(5)).logits)


def test_a_file_with_no_fixed_size_is_used_at_224_pixels(teacher_file):
    assert Teacher(teacher_file).size == 224


@pytest.mark.parametrize("content", [b"", b"no ONNX", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "t.onnx").write_bytes(content)
    with pytest.raises(TeacherError, match=r"^t\.onnx: cannot be opened as an ONNX file") as caught:
        Teacher(tmp_path / "t.onnx")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(TeacherError, match="there is no such file"):
            Teacher(path)


def test_outputs_of_other_names_are_refused(make_teacher):
    with pytest.raises(TeacherError, match=r"the outputs features, scores; a teacher has"):
        Teacher(make_teacher(outputs=("scores", "features")), 32)


def test_numbers_that_are_not_finite_are_refused(make_teacher):
    with pytest.raises(TeacherError, match="not finite"):
        Teacher(make_teacher(scale=np.inf), 32)  # 0 times infinity, before any image is decoded


def test_without_openvino_the_way_out_is_named(teacher_file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(TeacherError, match="pip install openvino"):
        Teacher(teacher_file)


def test_numbers_too_small_for_the_teacher_are_still_numbers_everywhere_else(teacher):
    teacher(noise(1))
    assert np.nextafter(np.float32(0), np.float32(1)) * np.float32(1) > 0


class Counted:
    """Renders views by image and number, and counts them."""

    def __init__(self):
        self.shown = []

    def __call__(self, numbers, views):
        self.shown += list(zip(numbers.tolist(), views.tolist(), strict=True))
        return np.concatenate([noise(1, seed=10 * n + v) for n, v in zip(numbers, views, strict=True)])


def test_the_outputs_for_a_kept_view_are_computed_once_even_for_the_next_training(teacher, tmp_path):
    show = Counted()
    numbers, views = np.array([3, 0, 1]), np.array([1, 0, 1])
    cache = TeacherCache(teacher, 4, 2, tmp_path)
    first = cache.get(numbers, views, show)
    assert show.shown == [(3, 1), (0, 0), (1, 1)]
    again = cache.get(numbers, views, show)
    later = TeacherCache(teacher, 4, 2, tmp_path).get(numbers, views, show)
    assert len(show.shown) == 3
    for kept in (again, later):
        np.testing.assert_array_equal(kept.logits, first.logits)
        np.testing.assert_array_equal(kept.features, first.features)
    fresh = teacher(Counted()(numbers, views))
    np.testing.assert_array_equal(fresh.features, first.features)


def test_kept_outputs_that_were_cut_off_are_computed_anew(teacher, tmp_path):
    show, numbers = Counted(), np.array([2])
    first = TeacherCache(teacher, 4, 2, tmp_path).get(numbers, numbers * 0, show)
    (tmp_path / "outputs.bin").write_bytes(b"cut off")
    again = TeacherCache(teacher, 4, 2, tmp_path).get(numbers, numbers * 0, show)
    assert len(show.shown) == 2
    np.testing.assert_array_equal(first.features, again.features)


def test_with_none_kept_the_outputs_are_computed_every_time(teacher, tmp_path):
    show = Counted()
    cache = TeacherCache(teacher, 4, 0, tmp_path / "none")
    for _ in range(2):
        cache.get(np.array([1]), np.array([7]), show)
    assert len(show.shown) == 2
    assert not (tmp_path / "none").exists()


def test_outputs_that_cannot_be_kept_are_refused(teacher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TeacherError, match="cannot be kept there"):
        TeacherCache(teacher, 4, 2, tmp_path / "file")


def test_weights_that_lie_beside_the_file_are_part_of_what_it_is(teacher_file, tmp_path):
    path = tmp_path / "t.onnx"
    path.write_bytes(teacher_file.read_bytes())
    alone = Teacher(path).sha256
    assert alone == Teacher(teacher_file).sha256
    digests = set()
    for content in (b"some weights", b"others"):
        (tmp_path / "t.onnx.data").write_bytes(content)
        digests.add(Teacher(path).sha256)
    assert len(digests | {alone}) == 3
