"""Tiny configs of every registered model, for the laws in test_contract.py."""

SPECIES = ["O", "Si"]
CUTOFF = 3.2
_PAIR = {"species": SPECIES, "cutoff": CUTOFF}
_ACSF = {**_PAIR, "num_radial": 4, "num_angular": 2, "zetas": [1, 4], "angular_cutoff": 2.6}
_FUNCTIONS = {
    "species": SPECIES,
    "radial": [{"eta": 0.5, "r_shift": 1.5, "cutoff": CUTOFF}],
    "angular": [
        {"eta": 0.1, "r_shift": 0.0, "lam": 1.0, "zeta": 2.0, "cutoff": CUTOFF},
        {"eta": 0.1, "r_shift": 0.0, "lam": -1.0, "zeta": 1.0, "cutoff": 3.0, "narrow": True},
    ],
}

TABLES = {
    "coordination": [[0.0, 0.99, 1.99], [0.0, 1.95]],
    "c6": [
        [[15.0, 12.0, 11.0], [12.0, 10.5, 9.0], [11.0, 9.0, 8.0]],
        [[70.0, 55.0], [57.0, 45.0], [52.0, 40.0]],
        [[300.0, 240.0], [240.0, 190.0]],
    ],
    "covalent_radii": [0.63, 1.16],
    "ratio_roots": [2.6, 4.9],
    "cutoff_radii": [2.6, 3.1, 3.7],
}
"""Reference systems for D3, made up: no published tables are needed to test its laws."""

PRESETS = {
    "ace": {**_PAIR, "n_max": [3, 2, 1, 1], "l_max": [0, 2, 1, 1], "energy_scale": 0.1},
    "allegro": {
        **_PAIR,
        "num_layers": 2,
        "l_max": 2,
        "num_scalar_features": 4,
        "num_tensor_features": 3,
        "num_bessels": 4,
        "two_body_mlp": [6],
        "latent_mlp": [6],
        "readout_mlp": [5],
        "avg_num_neighbors": 12.0,
        "energy_scale": 0.5,
    },
    "behler_parrinello": {**_ACSF, "hidden": [6], "energy_scale": 0.8},
    "chgnet": {
        **_PAIR,
        "bond_cutoff": 2.6,
        "num_layers": 3,
        "num_features": 3,
        "num_radial": 4,
        "num_angular": 3,
        "polynomial_cutoff_p": 5,
        "readout_hidden": [4],
        "predict_magmoms": True,
        "energy_scale": 0.5,
    },
    "d3": {
        **_PAIR,
        "coordination_cutoff": 2.8,
        "s8": 0.9,
        "a1": 0.3,
        "a2": 1.5,
        "tables": TABLES,
    },
    "gap": {
        **_PAIR,
        "n_max": 2,
        "l_max": 1,
        "atom_sigma": 0.6,
        "cutoff_transition_width": 1.0,
        "num_sparse": 4,
        "zeta": 2,
        "num_pair_sparse": 3,
        "pair_cutoff": 2.8,
        "num_triplet_sparse": 3,
        "triplet_cutoff": 2.6,
        "energy_scale": 0.5,
        "pair_energy_scale": 0.2,
        "triplet_energy_scale": 0.3,
    },
    "hdnnp_4g": {
        "electronegativity": {
            "local": {
                "descriptor": {"symmetry_functions": _FUNCTIONS},
                "regressor": {"mlp": {"hidden": [4]}},
                "energy_scale": 2.0,
                "isolated_zero": False,
            }
        },
        "short_range": {"mlp": {"hidden": [5]}},
        "widths": [1.1, 1.3],
        "screening": [1.0, 2.8],
        "energy_scale": 0.8,
        "accuracy": 1e-13,
    },
    "lennard_jones": {**_PAIR, "epsilon": [0.1, 0.2, 0.15], "sigma": 1.6},
    "local": {
        "descriptor": {"symmetry_functions": _FUNCTIONS},
        "regressor": {"mlp": {"hidden": [5], "activation": "silu"}},
        "energy_scale": 1.3,
        "scaling": "minmax",
    },
    "m3gnet": {
        **_PAIR,
        "threebody_cutoff": 2.6,
        "max_n": 2,
        "max_l": 2,
        "num_blocks": 2,
        "num_features": 3,
        "num_bond_features": 2,
        "width": 3,
        "energy_scale": 0.5,
    },
    "mace": {
        **_PAIR,
        "hidden_irreps": "3x0e+3x1o",
        "max_ell": 2,
        "correlation": 2,
        "num_bessels": 4,
        "radial_mlp": [6],
        "readout_width": 4,
        "avg_num_neighbors": 12.0,
        "energy_scale": 0.5,
    },
    "morse": {**_PAIR, "distance": [1.4, 1.6, 2.2], "trainable": False},
    "mtp": {**_PAIR, "level": 8, "radial_basis_size": 4, "energy_scale": 0.2},
    "nequip": {
        **_PAIR,
        "num_layers": 2,
        "l_max": 1,
        "num_features": 4,
        "num_bessels": 4,
        "radial_mlp_width": 8,
        "avg_num_neighbors": 12.0,
        "energy_scale": 0.5,
    },
    "pace": {
        "species": SPECIES,
        "bonds": [
            {"cutoff": CUTOFF, "core": [5.0, 1.2]},
            {"cutoff": 3.0, "radial": "cheb_exp_cos", "parameter": 3.0},
            {"cutoff": 3.1, "radial": "cheb_pow", "parameter": 3.0},
            {"cutoff": CUTOFF},
        ],
        "num_basis": 4,
        "n_max": [4, 2, 1],
        "l_max": [0, 2, 1],
        "embeddings": [{}, {"form": "smoothed", "core_cutoff": 40.0, "core_width": 39.5}],
        "energy_scale": 0.1,
    },
    "painn": {
        **_PAIR,
        "num_layers": 2,
        "num_features": 4,
        "num_radial": 4,
        "energy_scale": 0.5,
    },
    "schnet": {
        **_PAIR,
        "num_interactions": 2,
        "num_features": 4,
        "num_filters": 3,
        "num_gaussians": 8,
        "energy_scale": 0.5,
    },
    "snap": {
        **_PAIR,
        "twojmax": 2,
        "relative_radii": [0.9, 1.0],
        "weights": [0.8, 1.0],
        "quadratic": True,
        "energy_scale": 0.02,
    },
    "sum": {"terms": [{"morse": _PAIR}, {"zbl": {**_PAIR, "cutoff": 2.0, "inner": 0.8}}]},
    "tensornet": {
        **_PAIR,
        "num_layers": 2,
        "num_features": 4,
        "num_radial": 4,
        "radial_trainable": True,
        "energy_scale": 0.5,
    },
    "zbl": {**_PAIR, "inner": 1.2},
}

VARIANTS = {
    "ace_channels": {
        "ace": {
            **PRESETS["ace"],
            "element_channels": 3,
            "channel_weights": "trained",
            "exponents": [1.0, 0.5],
        }
    },
    "allegro_parity": {
        "allegro": {
            **PRESETS["allegro"],
            "num_layers": 3,
            "l_max": 1,
            "num_tensor_features": 2,
            "embedding_features": 16,
            "bessel_trainable": True,
            "two_body_mlp": [4],
            "latent_mlp": [4],
            "tp_path_channel_coupling": False,
            "avg_num_neighbors": [10.0, 14.0],
        }
    },
    "d3_zero": {
        "d3": {
            **_PAIR,
            "onset": 2.4,
            "coordination_onset": 1.0,
            "damping": "zero",
            "s6": 3.0,
            "s8": 4.0,
            "rs6": 0.8,
            "rs8": 0.7,
            "tables": TABLES,
        }
    },
    "m3gnet_sender": {
        "m3gnet": {
            **PRESETS["m3gnet"],
            "triplets_at": "sender",
            "threebody_basis": "smooth_bessel",
        }
    },
    "mace_density": {
        "mace": {
            **PRESETS["mace"],
            "max_ell": 1,
            "correlation": 3,
            "residual_first": False,
            "density_normalization": True,
            "distance_transform": "agnesi",
            "repulsion": 0.7,
        }
    },
    "mace_heads": {
        "mace": {
            **PRESETS["mace"],
            "hidden_irreps": "2x0e",
            "max_ell": 1,
            "correlation": 1,
            "heads": ["coarse", "fine"],
        }
    },
    "nequip_norm": {
        "nequip": {
            **PRESETS["nequip"],
            "parity": False,
            "self_connection": "linear",
            "first_self_connection": True,
            "layer_norm": True,
        }
    },
    "tensornet_gated": {
        "tensornet": {
            **PRESETS["tensornet"],
            "radial_basis": "smooth_bessel",
            "radial_trainable": False,
            "readout": "gated",
        }
    },
}
"""Configs of models with options that take other paths."""
