# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""VMs that are up, with the servers running in them, and the path between them as the next run wants it."""
import concurrent.futures

from shuntlab import accel, kernel, klog, lab as labs, programs, state, traffic
from shuntlab.paths import BUILD
from shuntlab.progress import say
from shuntlab.scenario import Failed, Lab

from . import cpu, rival, tools

READY_SECONDS = 30


class Session:
    """One set-up, booted; a context manager that leaves nothing behind."""

    def __init__(self, setup):
        self.setup = setup
        self.lab = None
        self.servers = []
        self.rivals = {}
        self.attached = False       # None: a change of path failed half-way
        self.failed_takes = 0
        self.meter = None

    def __enter__(self):
        setup = self.setup
        labs.up(vms=setup.vms, kernel=setup.kernel, vcpus=setup.vcpus,
                kernels={"vm2": setup.other_kernel} if setup.other_kernel else {}, **rival.needs(setup.variants))
        try:
            self.lab = Lab()
            self.attached = True        # the module is loaded; nothing is attached yet, which is no matter
            self.detach()
            self.serve()
            for name in setup.variants:
                if name in rival.KINDS:
                    say(f"plugging {name} into the VMs")
                    self.rivals[name] = rival.KINDS[name](self.lab)
            pids = [vm.record["qemu"]["pid"] for vm in self.lab.vms] + [self.lab.host1.daemon_pid]
            self.meter = cpu.Meter(pids + [pid for one in self.rivals.values() for pid in one.pids])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for one in self.rivals.values():
            one.close()
        labs.down()

    def serve(self):
        """Start what answers, everywhere: any VM may be the client."""
        wanted = {test.tool for batch in self.setup.batches for test in batch}
        for vm in self.lab.vms:
            vm.put(BUILD / "bench/load", tools.LOAD)
            self.servers.append(vm.serve(f"exec {tools.LOAD} serve {tools.LOAD_PORT}", tools.LOAD_PORT, timeout=None))
        if wanted - {"load"}:
            self.servers += programs.start_servers(self.lab.vm2)

    @property
    def talking(self):
        """Which VMs talk to which."""
        if self.setup.vms == 2:
            return (("vm1", "vm2"),)
        names = [vm.name for vm in self.lab.vms]
        return tuple(zip(names, names[1:] + names[:1]))

    def parallel(self, function):
        """The same for all VMs, two at a time."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(function, [vm.name for vm in self.lab.vms]))

    def attach(self):
        """Traffic goes through shared memory from now on."""
        self.parallel(labs.shunt_on)
        programs.make_local(self.lab, self.talking)
        self.attached = True

    def detach(self):
        """Back to the network: VMs detached, modules unloaded."""
        self.parallel(labs.shunt_off)
        self.attached = False

    def take(self, variant):
        """Have the traffic of the next runs take this path."""
        packet = variant == "packet"
        if packet != self.attached:
            self.attached = None
            self.attach() if packet else self.detach()
        for name, one in self.rivals.items():
            one.use(name == variant)

    def check(self, variant):
        """What the runs since take() should be told about: words, or None."""
        for server in self.servers:
            if not server.running:
                raise Failed(f"`{server.command}` in {server.vm.name} ended: {server.out}{server.err}")
        if variant != "packet":
            return None
        if not programs.are_local(self.lab, self.talking):
            return "traffic fell back to the network:\n" + self.lab.host1.shunt("status")
        stalls = sum(traffic.stats(getattr(self.lab, a), getattr(self.lab, b))["stalls"]
                     for pair in self.talking for a, b in (pair, pair[::-1]))
        return f"the link stalled {stalls} times" if stalls else None

    def target(self, vm, variant):
        """The addresses of @vm on this path."""
        if variant in self.rivals:
            return self.rivals[variant].target(vm)
        return tools.Target(vm.ip, vm.ip6)

    def once(self, test, variant):
        """One run: its Sample, with the CPU time it took."""
        before = self.meter.read()
        sample = self.ring(test, variant) if test.ring else self.single(test, variant)
        after = self.meter.read()
        sample.cpu, sample.host_cpu = (b - a for a, b in zip(before, after))
        return sample

    def single(self, test, variant):
        """From vm1 to vm2; the load program has no reverse of its own, so it runs in the other VM."""
        client, server = self.lab.vm1, self.lab.vm2
        if test.reverse and test.tool == "load":
            client, server = server, client
        if variant == "loopback":
            client = server = self.lab.vm2      # the servers of the other programs are there
        return tools.once(test, client, self.target(server, variant))

    def ring(self, test, variant):
        """Every VM to the next, all at once: the sum of what arrived."""
        ends = self.lab.vms
        with concurrent.futures.ThreadPoolExecutor(len(ends)) as pool:
            one = [pool.submit(tools.once, test.part(), vm, self.target(ends[(i + 1) % len(ends)], variant))
                   for i, vm in enumerate(ends)]
            parts = [future.result() for future in one]
        return tools.Sample(sum(part.value for part in parts), moved=sum(part.moved for part in parts))

    def problems(self):
        """Lines of the guests' kernel logs that should not be there."""
        return [f"{vm.name}: {line}" for vm in self.lab.vms for line in klog.problems(vm.sh("dmesg -c"))]


def accelerator():
    """What the VMs will run on."""
    return accel.choose(kernel.get(kernel.DEFAULT))


def up_already():
    """Is a lab up where ours would be?"""
    return bool(state.load()["hosts"])
