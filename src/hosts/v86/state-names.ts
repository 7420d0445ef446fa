/**
 * What v86 calls the entries of its devices' states, in the order of `get_state` in its sources (state version 6). Only
 * people see the names: an entry without one is shown by its number.
 *
 * @module
 */

/** Names by entry; of an entry that is a list itself also those of its own. */
export interface EntryNames {
  readonly names: readonly string[];
  readonly inner?: Readonly<Record<string, EntryNames>>;
}

/** `-` is an entry without a name. */
function list(text: string, inner: Readonly<Record<string, EntryNames>> = {}): EntryNames {
  return { names: text.split(/\s+/), inner };
}

/** v86's `CPU` itself. The entries that are devices are not named: they have sections of their own. */
export const CPU_NAMES = list(
  `memory_size segment_flags segment_offsets segment_limits protected_mode idtr_offset idtr_size gdtr_offset gdtr_size
  - cr cpl - is_32 - - stack_size_32 in_hlt last_virt_eip eip_phys - - sysenter_cs sysenter_eip sysenter_esp prefixes flags
  flags_changed last_op1 - last_op_size - - - - - - instruction_pointer previous_ip reg32 sreg dreg reg_pdpte current_tsc
  - - - - - - - - - - - - - - - - - - fw_value - tss_size_32 - reg_xmm32s fpu_st fpu_stack_empty fpu_stack_ptr
  fpu_control_word fpu_ip fpu_ip_selector fpu_dp fpu_dp_selector fpu_opcode - - - - - - - - - - last_result
  fpu_status_word mxcsr`,
);

const DRIVE = list(
  "drive_type max_track max_head max_sect curr_track curr_head curr_sect perpendicular read_only media_changed buffer",
);

const IDE_INTERFACE = list(
  `sector_count_reg cylinder_count lba_high_reg lba_mid_reg data_pointer - - - - device_reg error_reg head head_count
  is_atapi is_lba features_reg data data_length lba_low_reg sector_count sector_size sectors_per_drq sectors_per_track
  status_reg write_dest current_command data_end current_atapi_command buffer`,
);

const IDE_CHANNEL = list(
  `master slave command_base irq - control_base - name device_control_reg prdt_addr dma_status current_is_master
  dma_command`,
  { master: IDE_INTERFACE, slave: IDE_INTERFACE },
);

const VIRTIO = list(
  `device_feature_select driver_feature_select device_feature driver_feature features_ok device_status config_has_changed
  config_generation isr_status queue_select`,
);

const PIC = list("irq_mask irq_map isr irr is_master slave expect_icw4 state read_isr auto_eoi - -");

/** The names of a device's entries by the section's name behind `v86/`. */
export const DEVICE_NAMES: Readonly<Record<string, EntryNames>> = {
  acpi: list("status pm1_status pm1_enable gpe"),
  dma: list(
    `channel_page channel_pagehi channel_addr channel_addr_init channel_count channel_count_init channel_mask channel_mode
    lsb_msb_flipflop`,
  ),
  floppy: list(
    `- - - - - - - - - - - - - - - - - - - sra srb dor tdr msr dsr cmd_phase cmd_code cmd_flags cmd_buffer cmd_cursor
    cmd_remaining response_data response_cursor response_length status0 status1 curr_drive_no reset_sense_int_count locked
    step_rate_interval head_load_time fdc_config precomp_trk eot drive0 drive1`,
    { drive0: DRIVE, drive1: DRIVE },
  ),
  ide: list("primary secondary", { primary: IDE_CHANNEL, secondary: IDE_CHANNEL }),
  "ide-channel": IDE_CHANNEL,
  ne2k: list("isr imr cr dcfg rcnt tcnt tpsr rsar pstart curpg boundary pstop rxcr txcr tsr mac memory"),
  parallel: list("data status control status_latched"),
  pic: PIC,
  pit: list(
    `counter_next_low counter_enabled counter_mode counter_read_mode counter_latch counter_latch_value counter_reload
    counter_start_time counter_start_value`,
  ),
  ps2: list(
    `enable_mouse_stream use_mouse have_mouse mouse_delta_x mouse_delta_y mouse_clicks have_keyboard enable_keyboard_stream
    next_is_mouse_command next_read_sample next_read_led next_handle_scan_code_set next_read_rate next_read_resolution -
    last_port60_byte sample_rate resolution scaling2 - command_register read_output_register read_command_register
    controller_output_port read_controller_output_port mouse_id mouse_detect_state mouse_reset_workaround`,
  ),
  rtc: list(
    `cmos_index cmos_data rtc_time last_update next_interrupt next_interrupt_alarm periodic_interrupt
    periodic_interrupt_time cmos_a cmos_b cmos_c nmi_disabled update_interrupt update_interrupt_time cmos_diag_status`,
  ),
  sb16: list(
    `- - read_buffer_lastvalue command command_size mixer_current_address mixer_registers dummy_speaker_enabled
    test_register dsp_highspeed dsp_stereo dsp_16bit dsp_signed - - dma_sample_count dma_bytes_count dma_bytes_left
    dma_bytes_block dma_irq dma_channel dma_channel_8bit dma_channel_16bit dma_autoinit dma_buffer_uint8
    dma_waiting_transfer dma_paused sampling_rate bytes_per_sample e2_value e2_count asp_registers -
    mpu_read_buffer_last_value irq irq_triggered`,
  ),
  uart: list(
    `ints baud_rate line_control lsr fifo_control ier iir modem_control modem_status scratch_register irq`,
  ),
  vga: list(
    `vga_memory_size cursor_address cursor_scanline_start cursor_scanline_end max_cols max_rows vga_memory dac_state
    start_address graphical_mode vga256_palette latch_dword color_compare color_dont_care miscellaneous_graphics_register
    svga_width svga_height crtc_mode svga_enabled svga_bpp svga_bank_offset svga_offset index_crtc dac_color_index_write
    dac_color_index_read dac_map sequencer_index plane_write_bm sequencer_memory_mode graphics_index plane_read planar_mode
    planar_rotate_reg planar_bitmap max_scan_line miscellaneous_output_register port_3DA_value dispi_index
    dispi_enable_value svga_memory - attribute_controller_index offset_register planar_setreset planar_setreset_enable
    start_address_latched crtc horizontal_display_enable_end horizontal_blank_start vertical_display_enable_end
    vertical_blank_start underline_location_register preset_row_scan - palette_source attribute_mode color_plane_enable
    horizontal_panning color_select clocking_mode line_compare pixel_buffer dac_mask character_map_select
    font_page_ab_enabled`,
  ),
  "virtio-balloon": list("virtio num_pages actual", { virtio: VIRTIO }),
  "virtio-console": list("virtio rows cols ports", { virtio: VIRTIO }),
  "virtio-net": list("virtio id mac", { virtio: VIRTIO }),
  vmware: list("enabled absolute"),
};
