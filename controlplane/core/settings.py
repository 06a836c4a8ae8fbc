"""Every number by which a site's controller decides: name, unit, bounds, and what it is for.

Names are those of `draft.Policy` and the parts of it. The defaults stand there.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.durations import format_duration

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
HOUR_S, DAY_S = 3_600, 86_400


@dataclass(frozen=True, slots=True)
class Setting:
    """One number. `unit`: ms, s, share, or what is counted. `flag`: the option of the controller that it follows from, ""
    where a policy file sets it. `quiet`: the journal tells of it where a site has set it, and only there."""

    name: str
    unit: str
    least: float
    most: float
    why: str
    flag: str = ""
    quiet: bool = False

    @property
    def is_time(self) -> bool:
        """Whether a duration with a unit may be written."""
        return self.unit in ("ms", "s")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers make sense."""
        return self.unit not in ("s", "share", "times", "per node-day", "days")

    def shown(self, value: float) -> str:
        """A value with its unit, for people."""
        match self.unit:
            case "ms":
                return format_duration(round(value)) if value >= 1 else f"{value:g}ms"
            case "s":
                return format_duration(round(value * 1_000)) if value >= 0.001 else f"{value:g}s"
            case "share":
                return f"{value * 100:g}%"
            case _:
                return f"{value:g} {self.unit}"


def _flags() -> tuple[Setting, ...]:
    return (
        Setting("orphan_grace_ms", "ms", 1, DAY_MS, "ranks run on so long without a controller", "--orphan-grace-ms"),
        Setting("effect_ms", "ms", 1, DAY_MS, "an agent must answer within", "--effect-ms"),
        Setting("max_active_jobs", "jobs", 1, 1e6, "more are refused at submit", "--max-active-jobs"),
        Setting("suspicion.lease_s", "s", 0.1, HOUR_S, "a node silent for longer is SUSPECT", "--lease-ms"),
        Setting("suspicion.brief_s", "s", 0, HOUR_S, "silence that is enough when three witnesses agree", "--beat-ms"),
        Setting(
            "suspicion.dead_without_witness_s", "s", 0.1, DAY_S, "a silent node is DEAD after it without any witness",
            "--dead-without-witness-ms",
        ),
        Setting("distrust.lag_s", "s", 0, HOUR_S, "a loop later than this makes us distrust silence", "--lease-ms"),
        Setting("distrust.after_s", "s", 0, HOUR_S, "lags count for so long", "--lease-ms"),
    )  # fmt: skip


def _believing() -> tuple[Setting, ...]:
    return (
        Setting("suspicion.scatter_minimum", "nodes", 1, 10_000, "so many scattered and silent at once: it is us"),
        Setting("suspicion.scatter_share", "share", 0.001, 1, "and at least this share of the site"),
        Setting("suspicion.domain_minimum", "nodes", 2, 10_000, "so many of a failure domain at once: it is lost"),
        Setting("suspicion.domain_share", "share", 0.01, 1, "and at least this share of the domain"),
        Setting("suspicion.domain_within_s", "s", 1, DAY_S, "and somebody saw some of them die within"),
        Setting("suspicion.slow_steps", "steps", 2, 1_000, "a job that made none for so many step times has stopped"),
        Setting("suspicion.link_witnesses", "nodes", 1, 1_000, "that say so make a node's links count as broken"),
        Setting("distrust.append_s", "s", 0.01, HOUR_S, "an append to the journal slower than this: silence is distrusted"),
        Setting("distrust.inbox_share", "share", 0.01, 1, "an inbox fuller than this: silence is distrusted"),
        Setting("hang_ms", "ms", 10 * SECOND_MS, DAY_MS, "a running job that makes no step for so long hangs"),
        Setting("hang_steps", "steps", 3, 100_000, "and for so many of its own step times"),
        Setting("hang_floor_ms", "ms", 2 * SECOND_MS, DAY_MS, "no sooner it is asked where the ranks stand", quiet=True),
        Setting("hang_times", "times", 2, 1_000, "and not before so many times its longest step of late", quiet=True),
        Setting("hang_spreads", "deviations", 3, 1_000, "nor before its median step and so many of these", quiet=True),
        Setting("hang_gather_ms", "ms", 500, MINUTE_MS, "agents have so long to say where their ranks stand", quiet=True),
        Setting("fence_ms", "ms", SECOND_MS, HOUR_MS, "a fence is asked for again after it"),
        Setting("patience_ms", "ms", 0, HOUR_MS, "a lost rank waits so long for its node to be seen whole again"),
        Setting("copies_wait_ms", "ms", 0, HOUR_MS, "a verdict waits so long for nodes to say what they hold in memory"),
        Setting("queue_patience_ms", "ms", 0, 30 * DAY_MS, "then nothing of lower priority goes past a queued job"),
    )  # fmt: skip


def _acts() -> tuple[Setting, ...]:
    return (
        Setting("actions.share", "share", 0.001, 1, "of working nodes that may be disturbed in a window; a rack always may"),
        Setting("actions.window_ms", "ms", SECOND_MS, DAY_MS, "the window"),
        Setting("quarantine.checks_ms", "ms", SECOND_MS, DAY_MS, "an agent must have checked its node within"),
        Setting("quarantine.retry_ms", "ms", SECOND_MS, DAY_MS, "before failed checks are tried again; doubled each time"),
        Setting("quarantine.retry_most_ms", "ms", SECOND_MS, 7 * DAY_MS, "up to"),
        Setting("quarantine.trial_ms", "ms", SECOND_MS, 365 * DAY_MS, "first trial; doubled with each repair of the part"),
        Setting("quarantine.memory_ms", "ms", SECOND_MS, 365 * DAY_MS, "within"),
        Setting("quarantine.trial_most_ms", "ms", SECOND_MS, 365 * DAY_MS, "up to"),
        Setting("quarantine.pair_ms", "ms", 0, DAY_MS, "a returning node is tested with another one within; 0: not", quiet=True),
        Setting("quarantine.pair_port", "port", 1_024, 65_000, "where these tests listen, and on the next ones", quiet=True),
        Setting("quarantine.pair_wait_ms", "ms", 0, DAY_MS, "and waits so long for others to be tested with", quiet=True),
        Setting("quarantine.pair_age_ms", "ms", 0, 30 * DAY_MS, "a new gang gets nodes tested so lately; 0: any", quiet=True),
        Setting("canaries.every_ms", "ms", 0, DAY_MS, "a simulated device fails on purpose so often; 0: never", quiet=True),
        Setting("canaries.deadline_ms", "ms", SECOND_MS, HOUR_MS, "a canary that is not recorded by then is missed", quiet=True),
        Setting("stragglers.factor", "times", 1.05, 100, "a rank that takes so many times its peers' own time is slow", quiet=True),
        Setting("stragglers.share", "share", 0.5, 1, "of looks in which it is, and it is told as a straggler", quiet=True),
        Setting("stragglers.looks", "looks", 4, 32, "before so many nobody is judged", quiet=True),
        Setting("checkpoints.save_first_ms", "ms", 0, HOUR_MS, "a planned stop waits so long for a save; 0: not", quiet=True),
        Setting("checkpoints.scrub_every_ms", "ms", 0, 365 * DAY_MS, "what is stored is read back so often; 0: never", quiet=True),
        Setting("checkpoints.scrub_mb_per_s", "MB/s", 1, 1e6, "no faster than this", quiet=True),
        Setting("spares.quantile", "share", 0.5, 0.999999, "of refill windows in which spares must be enough"),
        Setting("spares.prior_per_node_day", "per node-day", 0, 1, "failures, until enough were counted here"),
        Setting("spares.prior_node_days", "days", 0, 1e7, "of one node: so much the prior weighs"),
        Setting("spares.prior_refill_s", "s", 1, 365 * DAY_S, "replacing a spare takes, until it was measured"),
        Setting("spares.prior_refills", "refills", 1, 64, "that it takes to believe the measure"),
        Setting("spares.least_refill_s", "s", 0, 30 * DAY_S, "never assumed to be less"),
    )  # fmt: skip


def _ladder() -> tuple[Setting, ...]:
    assumed = "assumed until measured: "
    return (
        Setting("ladder.announce_s", "s", 0, HOUR_S, assumed + "the new rank table is known to all"),
        Setting("ladder.process_warm_s", "s", 0, HOUR_S, assumed + "a parked process takes its rank"),
        Setting("ladder.process_cold_s", "s", 0, HOUR_S, assumed + "a process is started"),
        Setting("ladder.groups_s", "s", 0, HOUR_S, assumed + "groups that lost a member are rebuilt"),
        Setting("ladder.groups_whole_s", "s", 0, HOUR_S, assumed + "all groups are rebuilt"),
        Setting("ladder.restore_s", "s", 0, HOUR_S, assumed + "state is read back"),
        Setting("ladder.shrink_s", "s", 0, HOUR_S, assumed + "groups are rebuilt with fewer replicas"),
        Setting("ladder.step_s", "s", 0.001, HOUR_S, assumed + "one step"),
        Setting("ladder.repair_s", "s", 1, 365 * DAY_S, assumed + "a lost node comes back"),
        Setting("ladder.failure_every_s", "s", 1, 365 * DAY_S, assumed + "time between two failures of a job"),
        Setting("ladder.samples", "recoveries", 1, 512, "measured values that it takes to believe them"),
        Setting("ladder.deadline_margin", "times", 1, 100, "a rung has this many times its 95th percentile"),
        Setting("ladder.deadline_floor_ms", "ms", SECOND_MS, DAY_MS, "and at least so long"),
        Setting("ladder.pause_patience_ms", "ms", SECOND_MS, HOUR_MS, "ranks wait so long for a peer nobody reports lost"),
        Setting("ladder.grow_interval_ms", "ms", 0, 30 * DAY_MS, "replicas come back no sooner after a generation"),
    )  # fmt: skip


SETTINGS: tuple[Setting, ...] = (*_believing(), *_acts(), *_ladder(), *_flags())
