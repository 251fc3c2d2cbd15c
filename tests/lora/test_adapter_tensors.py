"""The tensors in adapter_model.safetensors: their names and shapes."""

from safetensors import safe_open
from safetensors.torch import load_file

from companion.lora.peft_files.folder import save_lora
from tests.lora.adapter_files import WEIGHTS, of_peft, ours


def test_names_and_shapes_in_the_file(tmp_path):
    save_lora(ours("mixed", ["table", "conv", "up"]), tmp_path / "mixed")
    with safe_open(tmp_path / "mixed" / WEIGHTS, framework="pt") as file:
        assert file.metadata().keys() == {"companion_sha256", "format"}
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    assert shapes == {
        "base_model.model.table.lora_embedding_A": (3, 13),
        "base_model.model.table.lora_embedding_B": (6, 3),
        "base_model.model.conv.lora_A.weight": (3, 6, 3, 2),
        "base_model.model.conv.lora_B.weight": (10, 3, 1, 1),
        "base_model.model.blocks.up.lora_A.weight": (3, 10),
        "base_model.model.blocks.up.lora_B.weight": (8, 3),
    }
    save_lora(ours("mixed", ["down"], "dora"), tmp_path / "dora")
    magnitude = load_file(tmp_path / "dora" / WEIGHTS)[
        "base_model.model.blocks.down.lora_magnitude_vector"
    ]
    assert magnitude.shape == (5,)


def test_peft_writes_the_same_names_and_shapes(tmp_path):
    for name, targets, variant in [
        ("mixed", ["conv", "up"], {}),
        ("gpt2", ["c_fc"], {"use_dora": True}),
    ]:
        save_lora(ours(name, targets, "dora" if variant else "lora"), tmp_path / "ours")
        of_peft(name, tmp_path / "theirs", target_modules=targets, **variant)
        shapes = [
            {key: tensor.shape for key, tensor in load_file(tmp_path / who / WEIGHTS).items()}
            for who in ("ours", "theirs")
        ]
        assert shapes[0] == shapes[1]
