from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sls_deploy.config import SearchConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.progress import Progress, silent
from sls_deploy.search.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from sls_deploy.search.layers import find_layers
from sls_deploy.search.recover import Batches, Recovery, Refit
from sls_deploy.search.regrowth import Regrowth
from sls_deploy.search.sls import held_out_psnr
from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units

PATTERN = Pattern.parse("n:16")
UNITS = 4
CONFIG = SearchConfig(recover_rate=2e-3)


@dataclass
class Case:
    """A pruned copy of a dense network, which is also the truth: all of it can be recovered."""

    teacher: RestorationModel
    masks: dict[str, Tensor]
    student: RestorationModel
    asked: list[int] = field(default_factory=list)
    """Steps whose batch was asked for."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        self.asked.append(step)
        degraded = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            return degraded, self.teacher(degraded)

    def recovery(
        self,
        steps: int = 12,
        config: SearchConfig = CONFIG,
        *,
        regrow: bool = False,
        batches: Batches | None = None,
        refit: Refit | None = None,
    ) -> Recovery:
        regrowth = Regrowth(PATTERN, dict.fromkeys(self.masks, UNITS)) if regrow else None
        held_out = self.batch(10**6)
        self.asked.clear()
        return Recovery(
            copy.deepcopy(self.student), self.masks, self.teacher, batches or self.batch, held_out,
            config, steps, "recover", regrowth, refit=refit,
        )  # fmt: skip


@pytest.fixture
def case(dense: Path) -> Case:
    teacher, student = load_model(dense), load_model(dense)
    masks = {}
    for layer in find_layers(teacher, PATTERN, (12, 12)):
        if layer.prunable:
            weight = student.network.get_parameter(f"{layer.name}.weight").data
            mask = (rank_units(weight, PATTERN) < UNITS).float()
            weight.mul_(mask)
            masks[f"{layer.name}.weight"] = mask
    return Case(teacher, masks, student)


def pruned(recovery: Recovery) -> list[Tensor]:
    """The pruned weights of each layer."""
    return [
        recovery.model.network.get_parameter(name)[mask == 0]
        for name, mask in recovery.masks.items()
    ]


def kept(weight: Tensor) -> Tensor:
    """Nonzeros in each group of 16 input channels."""
    return (weight != 0).view(len(weight), -1, 16, 9).sum(2)


def state(recovery: Recovery) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in recovery.model.network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def test_recovers_what_pruning_lost_and_holds_the_best_weights(case: Case) -> None:
    recovery = case.recovery(steps=60)
    start = recovery.best_psnr
    reached = recovery.run(lambda _: None, silent)
    assert reached > start + 1
    assert held_out_psnr(recovery.model, recovery.held_out) == reached
    assert reached == max(epoch["psnr"] for epoch in recovery.history)


def test_every_step_asks_for_its_own_batch(case: Case) -> None:
    case.recovery(steps=7).run(lambda _: None, silent)
    assert case.asked == list(range(7))


@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_pruned_weights_and_their_moments_are_exact_zeros(case: Case, distillation: float) -> None:
    recovery = case.recovery(config=CONFIG.model_copy(update={"distillation": distillation}))
    for _ in range(5):
        recovery.train_step()
        assert not any(weights.any() for weights in pruned(recovery))
    for name, mask in recovery.masks.items():
        moments = recovery.optimiser.state[recovery.parameters[name]]
        for key in ("exp_avg", "exp_avg_sq"):
            assert not moments[key][mask == 0].any()
            assert moments[key][mask == 1].any()
        assert not recovery.averaged.network.get_parameter(name)[mask == 0].any()


def test_weights_given_unpruned_are_pruned(case: Case) -> None:
    case.student = case.teacher
    recovery = case.recovery()
    assert not any(weights.any() for weights in pruned(recovery))


def test_teacher_is_left_as_it_was(case: Case) -> None:
    before = copy.deepcopy(case.teacher.state_dict())
    case.recovery().run(lambda _: None, silent)
    assert same(before, case.teacher.state_dict())
    assert not case.teacher.training
    assert all(parameter.grad is None for parameter in case.teacher.parameters())


def test_loss_is_to_the_truth_and_to_the_teacher(case: Case) -> None:
    degraded, taught = case.batch(3)
    truth = taught.flip(3)
    config = CONFIG.model_copy(update={"distillation": 0.25})
    recovery = case.recovery(config=config, batches=lambda _: (degraded, truth))
    loss = recovery.backward(recovery.batches(0))
    restored = case.student.train()(degraded)
    to_truth, to_teacher = ((restored - aim).abs().mean() for aim in (truth, taught))
    (to_truth + 0.25 * to_teacher).backward()
    assert loss == pytest.approx(to_truth.item())
    for own, other in zip(recovery.model.parameters(), case.student.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_without_distillation_the_teacher_is_not_asked(case: Case) -> None:
    recovery = case.recovery(
        config=CONFIG.model_copy(update={"distillation": 0}),
        batches=lambda _: (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)),
    )
    recovery.teacher = RestorationModel(nn.Identity(), case.teacher.description)
    recovery.train_step()


def test_worse_weights_give_way_to_those_of_the_start(case: Case) -> None:
    recovery = case.recovery(config=CONFIG.model_copy(update={"recover_rate": 1.0}))
    start, psnr = state(recovery), recovery.best_psnr
    assert recovery.run(lambda _: None, silent) == psnr
    assert same(state(recovery), start)


@pytest.mark.parametrize("ema", [0.999, 0.15])
def test_average_follows_fast_at_first(case: Case, ema: float) -> None:
    recovery = case.recovery(config=CONFIG.model_copy(update={"ema": ema}))
    name = "tail.1.weight" if "tail.1.weight" in recovery.parameters else "head.0.weight"
    average = recovery.parameters[name].detach().clone()
    for step in range(3):
        recovery.train_step()
        decay = min(ema, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * recovery.parameters[name].detach()
        torch.testing.assert_close(recovery.averaged.network.get_parameter(name), average)


def test_rate_warms_up_and_falls(case: Case) -> None:
    recovery = case.recovery(steps=40)
    rates: list[float] = []
    recovery.run(lambda _: None, lambda _: rates.append(recovery.optimiser.param_groups[0]["lr"]))
    assert rates[0] < max(rates) == pytest.approx(CONFIG.recover_rate)
    assert rates[-1] < 0.05 * CONFIG.recover_rate


@pytest.mark.parametrize("regrow", [False, True])
def test_interrupted_recovery_goes_on_to_the_same_bits(
    case: Case, tmp_path: Path, regrow: bool
) -> None:
    whole = case.recovery(steps=85, regrow=regrow)
    whole.run(lambda _: None, silent)
    for stop in (1, 50, 53, 85, 86):
        recovery = case.recovery(steps=85, regrow=regrow)
        if found := newest_checkpoint(tmp_path):
            recovery.load(found)

        def save(state: Checkpoint, recovery: Recovery = recovery) -> None:
            save_checkpoint(tmp_path, recovery.step, state)

        def interrupt(progress: Progress, stop: int = stop) -> None:
            if progress.done == stop:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            recovery.run(save, interrupt)
    assert recovery.step == 85
    assert recovery.history == whole.history
    assert same(recovery.checkpoint().tensors, whole.checkpoint().tensors)


def diverge(_: int) -> tuple[Tensor, Tensor]:
    return torch.full((1, 3, 8, 8), torch.inf), torch.zeros(1, 3, 16, 16)


def test_diverged_recovery_is_no_result(case: Case) -> None:
    with pytest.raises(SlsError, match=r"loss is (nan|inf) at step 0.*--recover-rate"):
        case.recovery(batches=diverge).run(lambda _: None, silent)


def test_regrowth_lets_weights_return_until_the_masks_settle(case: Case) -> None:
    config = CONFIG.model_copy(update={"recover_rate": 2e-2})
    recovery = case.recovery(steps=50, config=config, regrow=True)
    seen: list[dict[str, Tensor]] = []
    recovery.run(lambda _: None, lambda _: seen.append(dict(recovery.masks)))
    assert not same(seen[0], seen[29])
    assert same(seen[30], seen[49])
    for masks in seen:
        for mask in masks.values():
            assert (kept(mask) == UNITS).all()
            assert is_2_4(mask.numpy())


def test_regrowth_ends_with_exact_zeros(case: Case) -> None:
    recovery = case.recovery(steps=85, regrow=True)
    zeros: list[bool] = []
    recovery.run(
        lambda _: None,
        lambda progress: zeros.append(not any(weights.any() for weights in pruned(recovery))),
    )
    assert zeros == [False] * 52 + [True] * 33
    for name in recovery.masks:
        assert (kept(recovery.model.network.get_parameter(name)) == UNITS).all()


def test_regrowth_is_unseen_by_the_forward_pass_and_straight_through_backward(case: Case) -> None:
    recovery = case.recovery(regrow=True)
    plain = case.recovery()
    with torch.no_grad():
        for name, mask in recovery.masks.items():
            recovery.parameters[name].add_(1 - mask)
    assert recovery.train_step()["loss"] == plain.backward(plain.batches(0))
    for name, mask in recovery.masks.items():
        through, other = recovery.parameters[name].grad, plain.parameters[name].grad
        assert through is not None
        assert other is not None
        pull = 2e-4 * (1 - mask)
        torch.testing.assert_close(through, other + pull, atol=1e-9, rtol=1e-6)
        assert other[mask == 0].any()


def test_latent_weights_of_a_dense_student_are_no_part_of_the_start(case: Case) -> None:
    start = case.recovery().best_psnr
    case.student = case.teacher
    recovery = case.recovery(regrow=True)
    assert recovery.best_psnr == start
    assert all(weights.any() for weights in pruned(recovery))


def test_running_statistics_stay_those_of_the_dense_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    model = RestorationModel(network, Description("own", {}, 1, 1.0))
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pair = (pictures, pictures)
    config = SearchConfig(recover_rate=2e-2, distillation=0)
    recovery = Recovery(
        model, {}, copy.deepcopy(model), lambda _: pair, pair, config, 60, "recover"
    )
    seen = state(recovery)
    recovery.start_epoch()
    assert same(state(recovery), seen)
    reached = recovery.run(lambda _: None, silent)
    assert held_out_psnr(model, pair) == reached > recovery.history[0]["psnr"]
    assert not recovery.best["1.running_mean"].any()


def test_refitted_weights_are_taken_where_they_gain(case: Case) -> None:
    config = CONFIG.model_copy(update={"refits": 2})
    asked: list[RestorationModel] = []

    def refit(student: RestorationModel, _: Mapping[str, Tensor]) -> RestorationModel:
        asked.append(student)
        better = copy.deepcopy(case.teacher)
        if len(asked) == 1:
            better.network.load_state_dict(
                {k: v * 9 for k, v in better.network.state_dict().items()}
            )
        return better

    recovery = case.recovery(steps=9, config=config, refit=refit)
    recovery.run(lambda _: None, silent)
    psnr = {row["step"]: row["psnr"] for row in recovery.history}
    assert len(asked) == 2
    assert psnr[3] == pytest.approx(psnr[2], abs=1.0)
    assert psnr[6] > psnr[5] + 3


def test_nothing_is_refitted_unless_asked_for(case: Case) -> None:
    def refit(_: RestorationModel, __: Mapping[str, Tensor]) -> RestorationModel:
        raise AssertionError

    recovery = case.recovery(steps=9, refit=refit)
    recovery.run(lambda _: None, silent)
    assert recovery.step == 9


def test_refits_come_after_the_masks_have_settled(case: Case) -> None:
    def refit(student: RestorationModel, _: Mapping[str, Tensor]) -> RestorationModel:
        asked.append(student)
        return student

    asked: list[RestorationModel] = []
    config = CONFIG.model_copy(update={"refits": 1})
    recovery = case.recovery(steps=20, config=config, regrow=True, refit=refit)
    recovery.run(lambda _: None, silent)
    assert len(asked) == 1
    assert min(recovery.refits) > recovery.settled


def test_layer_without_a_gradient_stays_as_it_is() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.held(x).detach())  # type: ignore[no-any-return]

    model = RestorationModel(Held(), Description("own", {}, 1, 1.0))
    weight = model.network.get_parameter("held.weight").detach().clone()
    pair = (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    masks = {"held.weight": torch.ones_like(weight)}
    Recovery(
        model, masks, copy.deepcopy(model), lambda _: pair, pair, CONFIG, 2, "recover"
    ).train_step()
    assert torch.equal(model.network.get_parameter("held.weight"), weight)
