"""Programs that are another in one place."""

from dataclasses import replace

from levit.native.program import ArraySpec, Attention, Project


def with_buffer(program, number, **changes):
    buffers = list(program.buffers)
    buffers[number] = replace(buffers[number], **changes)
    return replace(program, buffers=tuple(buffers))


def with_step(program, kind, which=0, **changes):
    """The program whose `which`-th step of a kind is another."""
    steps = list(program.steps)
    place = [i for i, step in enumerate(steps) if isinstance(step, kind)][which]
    steps[place] = replace(steps[place], **changes)
    return replace(program, steps=tuple(steps))


def step_of(program, kind, which=0):
    return [step for step in program.steps if isinstance(step, kind)][which]


def without_step(program, kind, which=0):
    gone = step_of(program, kind, which)
    return replace(program, steps=tuple(step for step in program.steps if step is not gone))


def with_input(program, **changes):
    return replace(program, input=replace(program.input, **changes))


def of_floats(*shape):
    return ArraySpec(dtype="float32", shape=shape)


def with_array(program, name, shape):
    return replace(program, arrays={**program.arrays, name: of_floats(*shape)})


def with_view(program, view, **changes):
    step = step_of(program, Attention)
    return with_step(program, Attention, **{view: replace(getattr(step, view), **changes)})


def with_part(program, **changes):
    project = step_of(program, Project)
    first, *others = project.parts
    return with_step(program, Project, parts=(replace(first, **changes), *others))
