"""Where a validity gate fires, each limit with its reason. Changing one changes verdicts: say so in docs/statistics.md."""

LAG_SHARE = 0.05
"""Of the latency measured. Above it the generator's own lateness is no longer small beside the smallest effects we report (3 %)."""
LAG_IGNORED_MS = 0.5
"""Lags below this are the kernel's own scheduling grain on a shared machine."""
FEW_WAVES = 4
"""Requests for each lane within a block. With fewer an interval rests on what a handful of waves tell of what they share (at four waves in
all it covers 88 to 95 %: docs/statistics.md)."""
LAG_HOPELESS = 1.0
"""Of TTFT: an event loop that reads an answer as late as the answer took measures itself."""
MERGED_SHARE = 0.01
"""Of answers whose first token shares its stamp with the next, by a late reader. From here on the 99th percentile of TTFT is theirs."""
MERGED_ALL = 0.10
"""From here on a median moves by as much as its interval is wide (with some 100 requests)."""
CPU_SHARE = 0.50
"""Of one core for a process. Above it queueing in the event loop is no longer rare (M/D/1: mean wait = half a service time at 50 %)."""
CPU_SATURATED = 0.90
"""The generator has no reserve left: what it measured is itself."""
GC_SHARE = 0.01
"""Of the measured time spent in garbage collection."""
ERROR_SHARE = 0.05
"""Failed requests. Above it the answered ones are a selection, and their latencies describe the selection."""
UNEQUAL_P = 0.005
"""Fisher's exact test: failures as unequal as this come once in 200 comparisons of equal servers."""
PREFIX_HITS = 0.20
"""Of prompt tokens. A shared system prompt and template is some 5 % of an image request; more means images were remembered."""
IMAGE_HITS = 0.05
"""Of images. Different images are never answered by the image cache."""
HITS_UNEQUAL = 0.05
"""Difference of a hit rate between arms: 5 % of prefill left out in one arm is an effect of its own."""
REPEATED_IMAGES = 0.10
"""Share of measured requests that carry an image which this server had already seen in the same run."""
OUTPUT_TOKENS = 0.02
"""Relative difference of mean output length, when its interval leaves out zero: decoding 2 % more tokens costs about that much time."""
PROMPT_TOKENS = 0.005
"""Relative difference of mean prompt length: same images and prompt through the same processor give the same count."""
CLOCKS_UNEQUAL = 0.03
"""Relative difference of the median SM clock between arms: compute-bound work follows the clock."""
THROTTLED_SHARE = 0.05
"""Of GPU samples with any hardware or thermal slowdown reason (a power cap is normal under load and is only told)."""
CAPPED_SHARE = 0.25
"""Of the slower arm's samples at the power cap, for the cap to explain its median clock: the reason stands for an instant, and the clock that
it lowered stays low for some samples after."""
OTHERS_SHARE = 0.02
"""Requests that a server finished beyond those sent to it, of the latter, and one more: a probe of its health check may be one."""
QUEUE_SHARE = 0.05
"""Mean time in the server's queue, of the median end-to-end latency."""
BACKLOG, BACKLOG_ALONE = (4.0, 0.15), (4.0, 0.3)
"""Open loop: requests not yet answered as the last one of a block arrives, a + b times those of the block; the first where response times double
within it. By 150 runs each of four blocks of 30 (FIFO / a batching server): 75 % of what the server can do never comes so far, 90 % in 0 / 6 %, 150 % in
95 / 99 %. Blocks of 8 tell an overload of a half in 11 / 30 % only."""
FEW_REQUESTS = 6
"""Below this no distribution-free interval of a median exists at 95 %."""
SETTLED_EFFECT = 0.05
"""How far a beginning, a step, a drift or a bend must reach, beside being significant (`client.core.steady`), to count as not settled."""
BEGINS_ELSEWHERE = 0.02
"""How far the ratio of two servers must begin from where it ends to be told of as a warm-up: less moves no word."""
LIKELY_WARMING = 0.8
"""How likely that must be. Of runs of steady servers 0.3 % come so far in E2E, interleaved and independent, and some 1 % in E2E or TTFT without any
warm-up requests; 2 to 5 % of serial ones whose requests depend on one another with 0.6 (300 campaigns each)."""
WIDER_FOR_WARMING = 2.0
"""How many times as wide an interval may be for a warm-up that is not ruled out before it is told. Of steady servers none of 400 intervals of 30
pairs after 20 warm-up requests is; after five, one in 70."""
SETTLED_Z = 4.0
"""Standard errors at which output lengths count as different: a run is looked at in many ways, and a false alarm costs trust."""
