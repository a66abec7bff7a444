"""Stands in for gym, which is no longer kept: gymnasium, with gym 0.21's interface where asked."""

import os

import gymnasium
from gymnasium import *  # noqa: F403

if os.environ.get("WATCHED_GYM") == "0.21":

    class _Old(gymnasium.Wrapper):
        """``reset`` gives the observation alone, ``step`` four things."""

        _seed = 0

        def seed(self, seed=None):
            self._seed = seed
            self.env.action_space.seed(seed)

        def reset(self):
            seed, self._seed = self._seed, None
            return self.env.reset(seed=seed)[0]

        def step(self, action):
            observation, reward, ended, cut, info = self.env.step(action)
            return observation, float(reward), ended or cut, info

        @property
        def unwrapped(self):
            return self

        @property
        def _max_episode_steps(self):
            return self.env.spec.max_episode_steps

        def render(self, *args, **options):
            """Nothing."""

    class ActionWrapper(_Old):
        """Changes actions by its ``action``."""

        def reset(self):
            return self.env.reset()

        def seed(self, seed=None):
            self.env.seed(seed)

        def step(self, action):
            return self.env.step(self.action(action))

    def make(name, **options):
        return _Old(gymnasium.make(name.replace("Pendulum-v0", "Pendulum-v1"), **options))
