"""Some of the campaign's cases, always the same: each command refuses them in one line or accepts them."""

import pytest

hostile_data = pytest.importorskip("hostile_data", reason="the campaign sets alarms", exc_type=ImportError)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20, 2))
def test_hostile_data_end_in_one_line(tmp_path, first):
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    pytest.importorskip("onnx")
    commands = dict(list(hostile_data.COMMANDS.items())[first // 2 % 3 :: 3])
    results = list(hostile_data.run(tmp_path, first, 2, seed=1, commands=commands))
    assert len(results) == 2 * len(commands)
    assert [r for r in results if r[3] in hostile_data.OUTCOMES[2:]] == []


def test_what_goes_wrong_is_counted(tmp_path, monkeypatch):
    def breaks(words):
        raise ValueError("of the program")

    monkeypatch.setattr(hostile_data, "minires", breaks)
    (result,) = hostile_data.run(tmp_path, 0, 1, commands={"doctor": ["doctor", "@"]})
    assert result[3:] == ("traceback", "ValueError: of the program")
    assert "traceback: number 0, folder, doctor: ValueError: of the program" in hostile_data.show([result])
