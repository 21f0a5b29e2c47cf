"""Speed and time to go with a clock of our own."""

import io

from noise2music.training.progress import Clock, PlainProgress, duration


class Time:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def test_compilation_counts_in_neither_and_pauses_only_in_the_time_to_go():
  time = Time()
  clock = Clock(start_step=0, total_steps=101, now=time)
  time.now = 60.0  # compiling, then the first step
  clock.tick(1)
  assert clock.speed(1) is None
  assert clock.seconds_to_go(1) is None
  for step in range(2, 12):
    time.now += 1.0
    clock.tick(step)
  time.now += 10.0
  clock.pause(10.0)  # sampling
  assert clock.speed(11) == 1.0
  assert clock.seconds_to_go(11) == 20 / 10 * 90


def test_durations_read_like_a_clock():
  assert [duration(s) for s in (0, 65, 3700, None)] == ["0:00", "1:05", "1:01:40", "-"]


def test_plain_lines_name_step_loss_speed_and_time_to_go():
  time, stream = Time(), io.StringIO()
  clock = Clock(start_step=0, total_steps=10, now=time)
  progress = PlainProgress(clock, total_steps=10, stream=stream)
  clock.tick(1)
  time.now = 4.0
  progress.update(4, None)
  progress.update(5, {"loss": 0.5, "steps_per_second": 1.0, "left_out": 0.25})
  assert stream.getvalue() == (
    "step 5/10  loss 0.5000  1 steps/s  25% of updates left out (not finite)  0:05 to go\n"
  )
