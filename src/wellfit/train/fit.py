"""The loop, on one page.

Everything that decides a step is here, in order: learning rate, micro-batches, their common weight, backward, clip,
update; then, each behind a visible `if`: evaluate, save, stop. Precision and ranks appear only as verbs. What happened
leaves as events, and nothing that watches can reach back.

    >>> fit(job, record)
    'finished'
"""

import time

from torch import Tensor

from wellfit.data.batches import Batch
from wellfit.distributed import Vote, syncing, total
from wellfit.events import Evaluated
from wellfit.train.interruption import Interruption
from wellfit.train.record import Recorder
from wellfit.train.recovery import ready
from wellfit.train.setup import Job
from wellfit.train.switches import compiled


def fit(job: Job, record: Recorder) -> str:
    """Trains `job.model` in place, from `job.standing` on. Returns why it ended, in the words of `events.Ended`."""
    task, model, optimizer, gradients = job.task, job.model, job.optimizer, job.gradients
    precision, batches, standing, training = job.precision, job.batches, job.standing, job.recipe.training
    replica, recovery = job.replica(), ready(job, record)
    valid, probe, looking, broken, reason = job.valid, record.probe, False, False, None

    def backward(batch: Batch, share: Tensor) -> Tensor:
        """Adds the gradient of the summed loss times `share` to what is there; returns the sum."""
        with precision.autocast():
            loss = task.loss(replica, batch)
        if looking:
            probe.loss(loss, batch)
        precision.backward(loss, share)
        return loss.detach()

    gradient = compiled(backward, replica, record.note) if job.recipe.hardware.compile else backward

    with recovery.explaining(), Interruption() as interruption, Vote() as vote:
        while standing.step < job.steps and not standing.patience_is_over and not reason:
            # 1. The learning rate is a function of the step; the micro-batches are those at this position of the data.
            learning_rate = job.set_learning_rate(standing.step)
            began = time.perf_counter()
            micro_batches = batches.take()
            waited = time.perf_counter() - began

            # 2. What the whole batch weighs: its unmasked targets, over all micro-batches and ranks.
            weight = total(sum([task.weight(batch) for batch in micro_batches]))
            share = job.share(weight)

            # 3. The gradient of the mean loss over that batch; ranks exchange it once, with the last micro-batch.
            losses, looking = [], probe.due
            with recovery.attempt():
                for i, batch in enumerate(micro_batches, start=1):
                    with syncing(replica, last=i == len(micro_batches)):
                        losses.append(gradient(batch, share))
            if recovery.again:  # memory ran out: nothing of that remains, and the batch comes again, cut smaller
                continue

            # 4. Look, if it is time to; clip, step, clear.
            precision.unscale(optimizer)
            if looking:
                probe.before()
            grad_norm = gradients.clip(training.max_grad_norm, training.max_grad_value)
            updated = recovery.allows(losses, grad_norm) and precision.step(optimizer)
            probe.after()
            gradients.clear()
            standing.step += 1
            record.add(standing.step, losses, weight, grad_norm, learning_rate, updated, waited)
            if recovery.rolled_back():  # too many steps were not finite: on from an earlier one
                continue

            # 5. Now and then: read the numbers, evaluate, save, stop.
            step, last, improved = standing.step, standing.step == job.steps, False
            interrupted, overdue = vote.any(interruption.requested, record.save_is_overdue())
            evaluating = step % job.evaluate_every == 0 or last
            if step % training.log_every == 0 or evaluating or last:
                broken = not record.flush()
            if valid is not None and evaluating and not broken:
                with precision.autocast():
                    scores = recovery.evaluate(model, task, valid)
                improved = standing.consider(scores.get(job.metric))
                record.emit(Evaluated(step, "valid", scores))
            if broken:
                reason = "loss-not-finite"
            elif (interrupted or step == job.until) and not last:
                reason = "interrupted"
            if not broken and (step % job.save_every == 0 or last or improved or overdue or reason):
                record.save(job, best=improved)

    return reason or ("early-stopping" if standing.patience_is_over and standing.step < job.steps else "finished")
