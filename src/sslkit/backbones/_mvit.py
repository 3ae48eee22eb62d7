"""MaskFeat's MViT: torchvision's blocks in the pre-training's order."""

from typing import Any

from sslkit._checks import need_whole, wrong


def maskfeat_mvit(image_size: int = 224, frames: int = 16, *, dim: int = 96, stages: tuple[int, ...] = (1, 2, 11, 2),
                  pretraining: bool = True, drop_path: float = 0.0) -> Any:  # fmt: skip
    """The hybrid MViT-S of MaskFeat, for clips, as a torchvision model without a head: `adapt` puts masks on its stem.

        encoder = adapt(maskfeat_mvit())

    | stage | blocks | heads | channels | grid of 16 frames at 224 | stride of keys and values |
    |---|---|---|---|---|---|
    | stem 3 x 7 x 7, stride 2, 4, 4 | - | - | 96 | 8 x 56 x 56 | - |
    | 2 | 1 | 1 | 96 -> 192 | 8 x 56 x 56 | 8 |
    | 3 | 2 | 2 | 192 -> 384 | 8 x 28 x 28 | 4 |
    | 4 | 11 | 4 | 384 -> 768 | 8 x 14 x 14 | 2 |
    | 5, pre-training | 2 | 8 | 768 | 8 x 14 x 14 | 2 |
    | 5, fine-tuning | 2 | 8 | 768 | 8 x 7 x 7 | 1 |

    As in MViTv2: relative positions, residual pooling. As in v1: the last block of a stage widens, in its MLP, so the weights are not those
    of `mvit_v2_s`. The official code starts the biases at 0.02; here they start at 0, as torchvision does it.

    Args:
        image_size: side in pixels; fixed, as is `frames`, by the tables of relative positions.
        frames: of a clip.
        dim: channels after the stem; doubled by every stage but the last. One head a `dim`.
        stages: blocks of each.
        pretraining: the last stage keeps the grid of the one before; False: it halves it, for fine-tuning.
        drop_path: stochastic depth of the last block.

    Returns:
        A float32 torchvision `MViT` that takes clips [batch, 3, frames, image_size, image_size].

    Raises:
        ValueError: no whole numbers from 1 on, fewer than two stages, or a size that the strides do not divide.

    Source: Wei et al. 2022 (MaskFeat), sec. 4.1 and the authors' configuration; Fan et al. 2021 (MViT), table 2.
    """
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    need_whole("maskfeat_mvit", image_size=image_size, frames=frames, dim=dim, **{f"stage{i}": n for i, n in enumerate(stages)})
    if len(stages) < 2:
        raise wrong("maskfeat_mvit", given=f"stages={stages}", expected="blocks of two stages or more", mend="pass stages=(1, 2, 11, 2)")
    halvings = [0 < i < len(stages) - pretraining for i in range(len(stages))]
    step = 4 * 2 ** sum(halvings)
    if image_size % step or frames % 2:
        raise wrong("maskfeat_mvit", given=f"image_size={image_size}, frames={frames}", expected=f"multiples of {step} and 2",
                    mend=f"pass image_size={step * max(1, round(image_size / step))}, frames={frames + frames % 2}")  # fmt: skip
    blocks, width, stride_kv = [], dim, 2 ** (len(stages) - 1)
    for stage, (count, halves) in enumerate(zip(stages, halvings, strict=True)):
        stride_kv //= 1 + halves
        for block in range(count):
            out = 2 * width if block == count - 1 and stage < len(stages) - 1 else width
            stride_q = 2 if halves and block == 0 else 1
            blocks.append(MSBlockConfig(2**stage, width, out, [3, 3, 3], [3, 3, 3], [1, stride_q, stride_q], [1, stride_kv, stride_kv]))
            width = out
    model = MViT((image_size, image_size), frames, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True,
                 proj_after_attn=False, stochastic_depth_prob=drop_path)  # fmt: skip
    del model.head  # adapt never calls it
    return model
