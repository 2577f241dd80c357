//! Two whole nodes, made from the daemons' cores, in one process: a network, clocks and disks that follow a seed, and
//! checkers that watch what must hold at every moment.
