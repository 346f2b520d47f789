"""One level: a JEPA that knows nothing of its neighbours.

Shapes: b clips, n steps of this level, w the window of items below that a state pools, d numbers a state, a numbers
an action of this level, k numbers of z.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from hjepa.config import LevelConfig, WorldConfig
from hjepa.latent import Inferred, build_latent
from hjepa.nn.actions import MacroAction
from hjepa.nn.conv import ConvEncoder
from hjepa.nn.pooling import Pool
from hjepa.nn.predictor import Predictor
from hjepa.nn.vit import ViT
from hjepa.objective.energy import distance


class FrameEncoder(nn.Module):
    """(B, N, window, H, W, C) uint8 frames -> (B, N, dim). The window's frames are stacked as channels."""

    def __init__(self, config: LevelConfig, world: WorldConfig) -> None:
        super().__init__()
        e, channels = config.encoder, world.channels * config.window
        self.net: nn.Module
        if e.kind == "vit":
            self.net = ViT(
                world.height,
                world.width,
                channels,
                config.dim,
                hidden=e.width,
                depth=e.depth,
                heads=e.heads,
                patch=e.patch,
            )
        else:
            self.net = ConvEncoder(world.height, world.width, channels, config.dim, hidden=e.width)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = rearrange(frames, "b n w h x c -> (b n) (w c) h x").float() / 127.5 - 1
        return rearrange(self.net(pixels), "(b n) d -> b n d", b=len(frames))


class Level(nn.Module):
    """Encoder, action encoder, latent and predictor of one level.

    Args:
        config: this level's configuration.
        below: the world for level 1, the number of state components of the level below otherwise.
        action_below: numbers an action of the level below has; 0 where there are none.
    """

    def __init__(self, config: LevelConfig, below: WorldConfig | int, action_below: int) -> None:
        super().__init__()
        self.config = config
        self.macro: MacroAction | None = None
        self.encoder: nn.Module
        if isinstance(below, WorldConfig):
            self.encoder = FrameEncoder(config, below)
            self.action_dim = action_below * config.stride
        else:
            e = config.encoder
            self.encoder = Pool(e.kind, config.window, below, config.dim, hidden=e.width, depth=e.depth)
            self.action_dim = config.action_dim if action_below else 0
            self.macro = MacroAction(action_below, config.action_dim) if action_below else None
        self.latent = build_latent(config.latent, config.dim)
        p = config.predictor
        cond_dim = self.action_dim + (config.latent.dim if self.latent else 0)
        self.predictor = Predictor(config.dim, cond_dim, width=p.width, depth=p.depth, heads=p.heads)
        self.inverse: nn.Module | None = None
        if config.objective.weights.inverse and self.action_dim:
            hidden = 2 * config.dim
            self.inverse = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, self.action_dim))

    def encode(self, below: Tensor) -> Tensor:
        """Items below, gathered into windows (b, n, w, ...) -> states (b, n, d), float32."""
        return self.encoder(below).float()

    def embed_actions(self, below: Tensor) -> Tensor:
        """Actions below (b, n, stride, a') -> actions of this level (b, n, a)."""
        if self.macro is None:
            return rearrange(below, "b n k a -> b n (k a)")
        return rearrange(self.macro(rearrange(below, "b n k a -> (b n) k a")).float(), "(b n) a -> b n a", b=len(below))

    def infer(self, states: Tensor, noise: Tensor | None = None) -> Inferred | None:
        """z of every transition of states (b, n, d): (b, n-1, k); None where the level has no latent."""
        return self.latent.posterior(states[:, :-1], states[:, 1:], noise) if self.latent else None

    def predict(
        self, states: Tensor, actions: Tensor | None = None, z: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """The state after each of states (b, n, d), from it and the valid ones before it.

        Args:
            actions: (b, n, a) taken at these states; required where the level has actions.
            z: (b, n, k); default: the prior's mean.
            valid: (b, n) bool; default: all.

        Returns:
            (b, n, d), float32.
        """
        if valid is None:
            valid = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return self.predictor(states, self._condition(states, actions, z), valid).float()

    def rollout(
        self,
        context: Tensor,
        steps: int,
        actions: Tensor | None = None,
        z: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Open-loop prediction: each predicted state is appended to the context of the next.

        Args:
            context: (b, n, d) states seen. The predictor never looks back farther than in training.
            actions, z: (b, n - 1 + steps, a or k), from the first context state on; z default: the prior's mean.
            valid: (b, n) bool of the context.

        Returns:
            (b, steps, d).
        """
        states, seen, most = context, context.shape[1], self.config.length - 1
        if valid is None:
            valid = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        for _ in range(steps):
            now = states.shape[1]
            recent = slice(max(0, now - most), now)
            action, latent = (x[:, recent] if x is not None else None for x in (actions, z))
            following = self.predict(states[:, recent], action, latent, valid[:, recent])[:, -1:]
            states = torch.cat([states, following], 1)
            valid = torch.cat([valid, torch.ones_like(valid[:, :1])], 1)
        return states[:, seen:]

    def energy(
        self, states: Tensor, following: Tensor, actions: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """E(x, y, z) = D(s_y, Pred(s_x, a, z)) of every step: states, following (b, n, d) -> (b, n)."""
        return distance(self.config.objective.energy, self.predict(states, actions, z), following)

    def _condition(self, states: Tensor, actions: Tensor | None, z: Tensor | None) -> Tensor | None:
        parts = []
        if self.action_dim:
            if actions is None:
                raise ValueError(f"this level predicts under actions: pass (b, n, {self.action_dim})")
            parts.append(actions)
        if self.latent:
            parts.append(self.latent.null(states) if z is None else z)
        return torch.cat(parts, -1) if parts else None
