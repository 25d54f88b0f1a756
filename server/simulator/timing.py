"""How long things take on the simulated card and in its API server, noise included. Answers are seconds."""

from __future__ import annotations

from collections.abc import Sequence

from server.simulator.noise import Noise
from server.simulator.profile import Profile, along


class Timing:
    """`scale` stretches every duration; `slow` is a factor on the GPU's part that a fault may raise while running."""

    def __init__(self, profile: Profile, seed: int, scale: float = 1.0) -> None:
        self._arm = profile.arm
        self._front = profile.frontend
        self._scale = scale / 1e3
        self._cold_image = self._cold_text = True
        self.slow = 1.0
        name = f"{seed}:{profile.name}:{profile.precision}"
        self._step_noise = Noise(f"{name}:step", self._arm.step_noise)
        self._encoder_noise = Noise(f"{name}:encoder", self._arm.encoder_noise)
        self._front_noise = Noise(f"{name}:frontend", self._front.noise)

    # --- the API server ---
    def parse(self, body_bytes: int) -> float:
        """On the event loop, one request at a time."""
        return (self._front.parse_ms + self._front.parse_ms_per_mb * body_bytes / 1e6) * self._scale

    def prepare(self, megapixels: float) -> float:
        """Tokenizing and decoding of pictures, side by side with other requests."""
        work = self._front.text_ms + self._front.decode_ms_per_megapixel * megapixels
        return work * self._front_noise.factor() * self._scale

    def process(self, megapixels: float, in_flight: int) -> float:
        """Resizing and cutting one new picture into patches: one at a time."""
        work = along(self._front.process_ms, megapixels) * along(self._front.crowd, in_flight)
        return work * self._front_noise.factor() * self._scale

    def ingest(self) -> float:
        return self._front.ingest_ms * self._scale

    # --- the engine ---
    def encode(self, images: Sequence[int]) -> float:
        """The vision encoder over these images (token counts) in one step; 0 without images."""
        if not images:
            return 0.0
        work = max(self._arm.encoder_floor_ms, sum(along(self._arm.encoder_ms, tokens) for tokens in images))
        cold, self._cold_image = (self._arm.cold_ms if self._cold_image else 0.0), False
        return (work * self._encoder_noise.factor() + cold) * self.slow * self._scale

    def forward(self, decodes: int, prefill_tokens: int, context_tokens: int, text_only: bool) -> float:
        """One pass of the language model over `decodes` sequences and `prefill_tokens` prompt tokens."""
        arm = self._arm
        work = arm.decode_ms + arm.decode_ms_per_seq * max(0, decodes - 1)
        work += arm.decode_ms_per_kilotoken * context_tokens / 1e3 + arm.prefill_ms_per_token * prefill_tokens
        if prefill_tokens:
            work += arm.prompt_launch_ms + arm.mixed_ms_per_seq * decodes
        cold = 0.0
        if text_only and prefill_tokens:
            cold, self._cold_text = (arm.cold_text_ms if self._cold_text else 0.0), False
        return (work * self._step_noise.factor() + cold) * self.slow * self._scale

    @property
    def launch_share(self) -> float:
        return self._arm.launch_share
